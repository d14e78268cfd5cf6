"""What tests and simulations are made of: virtual clock, simulated network, memory devices. The product never imports it."""
