"""One class per kind whose tests are the promises of its interface."""
