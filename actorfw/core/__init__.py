"""Floor 1: the control plane's rules as machines without input or output."""
