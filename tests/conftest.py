from hypothesis import settings

# A busy machine is no failed test, and a failed test fails the same way again.
settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")
