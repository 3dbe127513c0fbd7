import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.output import check_output


def fill(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, "utf-8")
    return folder


@pytest.fixture
def output(tmp_path):
    return tmp_path / "student"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_a_new_or_empty_folder_may_be_filled(output, overwrite, resume):
    check_output(output, overwrite=overwrite, resume=resume)
    output.mkdir()
    check_output(output, overwrite=overwrite, resume=resume)


def test_a_bundle_is_replaced_only_on_demand(output):
    fill(output, amalgam_json="{}", model_onnx="x")
    with pytest.raises(AmalgamError, match="--overwrite") as refused:
        check_output(output, overwrite=False, resume=False)
    assert str(output) in str(refused.value)
    assert "--resume" in str(refused.value)
    check_output(output, overwrite=True, resume=False)
    check_output(output, overwrite=False, resume=True)


@pytest.mark.parametrize(
    ("manifest", "kind", "replaced"),
    [
        ('{"kind": "teacher"}', "teacher", True),
        ('{"kind": "teacher"}', "bundle", False),
        ('{"kind": "bundle"}', "bundle", True),
        ('{"kind": "bundle"}', "teacher", False),
        ("{}", "teacher", False),
        ("{}", "bundle", True),
        ("half a mani", "bundle", True),
        ("half a mani", "teacher", False),
        ("[]", "bundle", True),
    ],
)
def test_a_folder_is_replaced_by_its_own_kind_alone(output, manifest, kind, replaced):
    fill(output, amalgam_json=manifest)
    if replaced:
        check_output(output, overwrite=True, kind=kind)
        return
    with pytest.raises(
        AmalgamError, match=f"no {'bundle' if kind == 'bundle' else 'exported teacher'} and will not be"
    ):
        check_output(output, overwrite=True, kind=kind)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_what_is_no_bundle_is_never_replaced(output, overwrite, resume):
    fill(output, thesis_doc="years of work")
    refusal = "will not be replaced" if overwrite or resume else "not empty"
    with pytest.raises(AmalgamError, match=refusal):
        check_output(output, overwrite=overwrite, resume=resume)
    assert (output / "thesis.doc").read_text("utf-8") == "years of work"


def test_a_folder_that_holds_only_folders_is_not_empty(output):
    (output / "photos").mkdir(parents=True)
    with pytest.raises(AmalgamError, match="no bundle"):
        check_output(output, overwrite=True, resume=False)


def test_a_file_is_never_replaced(output):
    output.write_text("x", "utf-8")
    for overwrite in (False, True):
        with pytest.raises(AmalgamError, match="a file stands there"):
            check_output(output, overwrite=overwrite, resume=False)


def test_the_current_folder_is_refused_before_any_work(tmp_path, monkeypatch):
    """It cannot be put in place by rename."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AmalgamError, match="the current folder cannot be replaced"):
        check_output(type(tmp_path)("."), overwrite=False, resume=False)
