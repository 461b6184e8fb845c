"""dispatch for Python programs: `dispatch_py.broker` makes dispatcherd's publishers durable."""
