"""The compiled GPU kernels without a GPU: their PTX, run instruction by instruction in NumPy.

`python -m tests.ptx_emulator.check` compares values and gradients with float64 and reports every
faulty access of memory; `python -m tests.ptx_emulator.predict` estimates times. It runs PTX, not
machine code: faults of ptxas, spilling and time are out of sight, and so are the order of threads
on hardware and XLA's own GPU code.
"""
