import json

from limbeck.config import Data
from limbeck.data.prepare import prepare
from limbeck.evaluation.training_data import training_sources


def test_a_source_is_told_by_its_kind_weight_languages_and_training_examples(tmp_path):
    rows = [{"t": f"Text {i}", "l": ["x"], "tag": ("de", "fr", "de", "")[i % 4]} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "file", "name": "rows", "path": str(tmp_path / "rows.jsonl"), "weight": 0.5}
    source["columns"] = {"text": "t", "labels": "l", "lang": "tag"}
    data = Data.model_validate({"sources": [source], "heldout_fraction": 0.3, "near_duplicate_threshold": None})
    prepared = prepare(data, tmp_path / "data")
    found = training_sources(prepared, data.sources, {"rows": 120})["rows"]
    trained = [rows[int(text.split()[1])]["tag"] for text in prepared.sources["rows"].train.texts("text")]
    assert 0 < len(trained) < 60
    assert (found.kind, found.weight, found.examples, found.tokens) == ("labelled_text", 0.5, len(trained), 120)
    assert found.languages == {tag: trained.count(tag) for tag in ("de", "fr")}
    assert list(found.languages) == ["de", "fr"]  # the most frequent first
