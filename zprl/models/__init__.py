"""The policy: observation encoder, bottleneck, flow-matching generator and the bundle that holds them."""
