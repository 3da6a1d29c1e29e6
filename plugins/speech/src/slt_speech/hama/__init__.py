"""The pretrained Conformer-CTC phone recogniser of the package `hama` 1.7.0."""
