import json

from tgvlm_jax.evaluation import youcook2


def test_without_captions(tmp_path):
    row = {
        "image_id": "v.mp4", "id": 0, "duration": 20.0, "segments": [[0, 10], [10, 20]],
        "pure_cap": "cut the onion. fry it",
    }  # fmt: skip
    path = tmp_path / "val.caption_coco_format.json"
    path.write_text(json.dumps({"annotations": [row, row | {"pure_cap": "one"}]}))
    loaded = youcook2.read_youcook2(path)
    assert "1 captions for 2 'segments'" in str(loaded.problems[0])
    given = {"v.mp4": youcook2.d2vlm_captions("0 - 9</evi>0 - 9, cut the onion")}
    result = youcook2.score_youcook2(loaded.records, given, metrics=None)
    assert result.mean["Precision_Mean"] == 0.75
    assert result.mean["Recall_Mean"] == 0.375
    assert "SODA_c" not in result.mean
    assert "captions not scored" in result.table().title
    assert youcook2.score_youcook2(loaded.records, {}, metrics=None).mean["F1_Score"] == 0
