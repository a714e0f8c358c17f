"""The benchmark: the same work given to this server and to others, side by side in one run.

python -m bench --only stream --servers netra,fastapi
"""
