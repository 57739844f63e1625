"""The containers: each module finds the bytes of every storage in a file, and lays them out again for writing."""
