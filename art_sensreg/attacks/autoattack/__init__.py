"""The authors' own AutoAttack."""
