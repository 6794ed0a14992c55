"""Evolution in time: reversible, unitary, and with memory."""
