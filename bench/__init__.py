"""The benchmark: the same workloads on this server and on others, side by side in one run.

python -m bench --only stream --servers netra,fastapi
"""
