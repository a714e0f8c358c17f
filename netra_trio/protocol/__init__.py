"""The rules of the wire: no await, no clock, no chance, no log, no I/O."""
