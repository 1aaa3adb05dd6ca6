"""Code is compared by what it does."""

import functools

from art_sensreg.training.checkpoint.bytecode import code_digest, globals_used, is_installed, is_standard, members


def test_names_and_docstrings_do_not_count_and_constants_do():
    def one(x):
        """Add one."""
        return x + 1

    def same(value):
        """Some other words."""
        return value + 1

    def other(x):
        """Add one."""
        return x + 2

    assert code_digest(one) == code_digest(same)
    assert code_digest(one) != code_digest(other)


def test_globals_of_inner_functions_are_found():
    assert globals_used((lambda x: [len(row) for row in sorted(x)]).__code__) == ["len", "sorted"]


def test_members_are_those_of_the_users_own_classes():
    class Base(dict):
        factor = 2

        def scaled(self):
            return self.factor

    class Derived(Base):
        @property
        def size(self):
            return len(self)

        @functools.cached_property
        def once(self):
            return 1

    found = members(Derived)
    assert set(found) == {"factor", "scaled", "size.fget", "once"}
    assert found["factor"] == 2


def test_where_code_comes_from():
    assert is_standard("collections.abc")
    assert not is_standard("torch")
    assert is_installed("torch.nn")
    assert not is_installed("__main__")
