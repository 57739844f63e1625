"""The containers: each module says where the bytes of every storage lie, and how to lay them out again."""
