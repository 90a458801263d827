"""A client in the terminal: what ``looprooms join`` shows. It knows the server by the contract alone."""
