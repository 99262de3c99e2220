import platform
import subprocess

from confreg.records.environment import git_state, now, reproducibility, versions


def test_versions_name_python_and_every_package_a_number_depends_on():
    found = versions()
    assert found["python"] == platform.python_version()
    assert all(found[name] for name in ("confreg", "torch", "lightning", "transformers", "hydra-core", "wandb", "numpy"))


def test_a_folder_outside_any_repository_has_no_git_state(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None


def test_a_machine_without_git_has_no_git_state(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_state() is None


def test_a_changed_file_makes_the_git_state_dirty(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "file").write_text("one")
    git("init", "-q")
    git("add", "file")
    git("commit", "-q", "-m", "one", "--no-verify")
    clean = git_state(tmp_path)
    (tmp_path / "file").write_text("two")
    assert len(clean["commit"]) == 40
    assert (clean["dirty"], git_state(tmp_path)["dirty"]) == (False, True)


def test_conditions_of_reproducibility_are_plain_values():
    found = reproducibility()
    assert {"platform", "threads", "device", "cpus"} <= set(found)
    assert all(isinstance(value, str | int | None) for value in found.values())
    assert now().endswith("+00:00")
