"""YAML that a configuration file may not contain."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import UserError
from app.runs.configuration import with_existing_configs


def test_key_given_twice_is_an_error():
    Path("twice.yaml").write_text("trainer:\n  gradient_clip_val: 1\n  max_epochs: 1\n  gradient_clip_val: 2\n")
    with pytest.raises(UserError, match="the key 'gradient_clip_val' is given twice, again in line 4"):
        with_existing_configs(["--config", "twice.yaml"])


def test_aliases_that_expand_exponentially_are_an_error():
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    Path("many.yaml").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="its aliases expand to more than 100,000 entries"):
        with_existing_configs(["--config", "many.yaml"])


def test_aliases_and_merged_keys_are_accepted():
    Path("few.yaml").write_text("base: &base {a: 1}\nother: {<<: *base, a: 2}\n")
    assert with_existing_configs(["--config", "few.yaml"]) == ["--config", "few.yaml"]
