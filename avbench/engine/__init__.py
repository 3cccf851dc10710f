"""Plain training, DDP and DeepSpeed behind the same few verbs.

A method calls the verbs and never knows which engine it runs under. Under each, gradients that a method reads or
rewrites are already averaged over ranks, and every parameter has one (zero where it took no part); `state_dict` has one
form under all, so what was saved under one engine and number of ranks is loaded under another.
"""
