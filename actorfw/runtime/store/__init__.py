"""Values in shared memory: a node's arena, the blocks in it, and who else has them."""
