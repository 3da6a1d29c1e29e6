"""Which torch function runs where on the chip: handlers by function, over one `Dispatcher`."""
