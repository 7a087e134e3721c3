"""The policy: observation encoder, bottleneck, flow-matching generator and their bundle."""
