"""Personal data: precision and recall on labelled records, check digits by their mathematics, stand-ins and secrecy."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadUsage
from mojiang.core.report import Report
from mojiang.data import _checks as checks
from mojiang.data._accounting import Changes
from mojiang.data._pii import KINDS, find_pii
from mojiang.data._pseudonyms import canonical, pseudonym
from mojiang.data.pii import Pii, Settings, treat

LABELLED = Path(__file__).parents[1] / "fixtures" / "pii" / "labelled.jsonl"
KEY = b"a secret of thirty-two characters"


def records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]


def values(kind: str) -> list[str]:
    return [r["text"][a:b] for r in records() for a, b, k in r["spans"] if k == kind]


PLACES = (
    ("浙江省杭州市西湖区", "文三路", "478号"),
    ("北京市海淀区", "中关村南大街", "5号"),
    ("上海市浦东新区", "张江路", "368号"),
    ("广东省深圳市南山区", "科技园路", "10号"),
    ("四川省成都市武侯区", "人民南路四段", "27号"),
    ("重庆市渝中区", "解放碑大街", "1号"),
    ("江苏省南京市鼓楼区", "汉口路", "22号"),
    ("湖北省武汉市洪山区", "珞喻路", "1037号"),
    ("陕西省西安市雁塔区", "小寨西路", "26号"),
    ("河北省石家庄市长安区", "中山东路", "131号"),
    ("云南省大理白族自治州大理市", "人民路", "56号"),
    ("天津市和平区", "南京路", "108号"),
)
INSIDE = ("", "3号楼2单元501室", "A座1203室", "15栋602室", "院内6号楼")
SAID = (
    "收货地址：{}，请勿放快递柜。",
    "他家住在{}，平时坐地铁上班。",
    "住所：{}\n电话：",
    "请寄到{}（张先生收）。",
    "公司位于{}，欢迎来访！",
)
NO_PLACE = (
    "我知道3号要考试",
    "请坐地铁2号线到人民广场",
    "他排在第12号",
    "这条道路3公里长",
    "一路顺风，二路公交车",
    "5号楼很漂亮",
    "全国两会3月5号召开",
    "买了3号电池和5号电池",
    "第38号令",
    "门牌5号",
    "弄堂里有三个人",
    "他在国道108号路段开车",
    "文件编号为2023第15号",
    "七号房间",
    "京沪高速路32公里处",
)


def test_chinese_addresses_by_hand() -> None:
    right = wrong = missed = 0
    for number, (place, road, house) in enumerate(PLACES):
        for inside in INSIDE:
            address = f"{place}{road}{house}{inside}"
            text = SAID[number % len(SAID)].format(address)
            found = [text[f.start : f.end] for f in find_pii(text, ["address"])]
            right, missed = right + (address in found), missed + (address not in found)
            wrong += sum(one != address for one in found)
    assert right >= 0.95 * (right + wrong), (right, wrong)
    assert right >= 0.95 * (right + missed), (right, missed)
    assert [text for text in NO_PLACE if find_pii(text, ["address"])] == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "address"])
def test_precision_and_recall_on_labelled_records(kind: str) -> None:
    counts: Counter[str] = Counter()
    for record in records():
        wanted = {(a, b) for a, b, k in record["spans"] if k == kind}
        found = {(f.start, f.end) for f in find_pii(record["text"]) if f.kind == kind}
        counts.update(right=len(wanted & found), wrong=len(found - wanted), missed=len(wanted - found))
    assert counts["right"] + counts["missed"] >= 40, "too few to say anything"
    assert counts["right"] / (counts["right"] + counts["wrong"]) >= 0.95
    assert counts["right"] / (counts["right"] + counts["missed"]) >= 0.95


def test_hard_negatives_hold_nothing() -> None:
    hard = [record["text"] for record in records() if record["set"] == "hard"]
    assert len(hard) > 300
    assert sum(bool(find_pii(text)) for text in hard) <= 0.01 * len(hard)


# -- check digits: values made by other software pass; any one wrong digit does not --------------------------------


@given(st.data())
def test_one_wrong_digit_is_always_noticed(data: st.DataObject) -> None:
    kind, check = data.draw(
        st.sampled_from([("card", checks.luhn), ("resident_id", checks.resident_id), ("iban", checks.iban)])
    )
    code = re.sub(r"[ -]", "", data.draw(st.sampled_from(values(kind)))).upper()
    assert check(code)
    place = data.draw(st.sampled_from([i for i, c in enumerate(code) if c.isdigit()]))
    other = data.draw(st.sampled_from([d for d in "0123456789" if d != code[place]]))
    assert not check(code[:place] + other + code[place + 1 :])


@given(st.data())
def test_one_wrong_character_of_a_company_code_is_always_noticed(data: st.DataObject) -> None:
    code = data.draw(st.sampled_from(values("uscc")))
    assert checks.uscc(code)
    place = data.draw(st.integers(8, 17))
    other = data.draw(st.sampled_from([c for c in "0123456789ABCDEFGHJKLMNPQRTUWXY" if c != code[place]]))
    assert not checks.uscc(code[:place] + other + code[place + 1 :])


@pytest.mark.parametrize(
    ("number", "network"),
    [("4242424242424242", "visa"), ("5555555555554444", "mastercard"), ("2223003122003222", "mastercard"),
     ("378282246310005", "amex"), ("6011111111111117", "discover"), ("3530111333300000", "jcb"),
     ("30569309025904", "diners"), ("6200000000000005", "unionpay"), ("4242424242424", "visa"), ("42424242424242", "")],
)  # fmt: skip
def test_card_networks_by_their_public_test_numbers(number: str, network: str) -> None:
    assert checks.card_network(number) == network


# -- one by one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("邮箱：zhang.san@qq.com。", [("email", "zhang.san@qq.com")]),
        ("li [at] home [dot] cn", [("email", "li [at] home [dot] cn")]),
        ("?mail=me@home.org&x=1", [("email", "me@home.org")]),
        ("Tel: 01 635 9760 / (086) 880 4187", [("phone", "01 635 9760"), ("phone", "(086) 880 4187")]),
        ("+86 138-1234-5678", [("phone", "+86 138-1234-5678")]),
        ("电话=13812345678", [("phone", "13812345678")]),
        ("我的13812345678", [("phone", "13812345678")]),
        ("13812345678,13912345678", [("phone", "13812345678"), ("phone", "13912345678")]),
        ("010-62345678转801", [("phone", "010-62345678转801")]),
        ("IBAN GB82 WEST 1234 5698 7654 32 BIC X", [("iban", "GB82 WEST 1234 5698 7654 32")]),
        ("11010519491231002X", [("resident_id", "11010519491231002X")]),
        ("身份证 110105491231002", [("resident_id", "110105491231002")]),
        ("110105491231002", []),
        ("京A·12345 和 沪AD12345", [("plate", "京A·12345"), ("plate", "沪AD12345")]),
        ("from 8.8.8.8", [("ip", "8.8.8.8")]),
        ("see 8.8.8.8", []),
        ("2a00:1450:4001:81d::200e", [("ip", "2a00:1450:4001:81d::200e")]),
        ("passport E12345678, product E12345678", [("passport", "E12345678")]),
    ],
)
def test_cases(text: str, found: list[tuple[str, str]]) -> None:
    assert [(f.kind, text[f.start : f.end]) for f in find_pii(text)][: len(found) or 1] == found


@given(st.text(alphabet="0123456789 .-+@aAE:/\n号电话京", max_size=80))
def test_what_is_found_is_in_order_and_apart(text: str) -> None:
    found = find_pii(text)
    assert all(f.start < f.end <= len(text) for f in found)
    assert all(one.end <= two.start for one, two in zip(found, found[1:], strict=False))


# -- actions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["redact", "pseudonym"])
def test_after_treatment_nothing_is_found(action: Any) -> None:
    settings = Settings({kind: action for kind in KINDS}, key=KEY)
    for record in records():
        text, places, _ = treat(record["text"], settings, Changes())
        assert find_pii(text) == [], text
        for place in places:
            if action == "redact":
                assert text[place["start"] : place["end"]] == f"[{place['kind'].upper()}]"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "address"])
def test_stand_ins_are_consistent_keyed_and_of_the_same_shape(kind: Any) -> None:
    mine = values(kind)
    made = {value: pseudonym(kind, value, KEY) for value in mine}
    assert made == {value: pseudonym(kind, value, KEY) for value in mine}
    others = [pseudonym(kind, value, KEY + b"2") for value in mine]
    assert sum(a != b for a, b in zip(made.values(), others, strict=False)) > 0.9 * len(made)
    different = {canonical(kind, value) for value in mine}
    assert len(set(map(lambda v: re.sub(r"\W", "", v), made.values()))) >= 0.9 * len(different)
    if kind not in ("email", "ip", "passport"):
        shape = re.compile(r"[0-9A-Za-z\u3400-\u9fff]")
        assert all(shape.sub("x", value) == shape.sub("x", stand) for value, stand in made.items())
    if kind == "ip":
        assert not any(ipaddress.ip_address(stand).is_global for stand in made.values())
    if kind in ("card", "bank_card"):
        assert not any(checks.luhn(re.sub(r"\D", "", stand)) for stand in made.values())


def test_spellings_of_one_value_have_one_stand_in() -> None:
    for kind, one, two in [
        ("phone", "+86 138-1234-5678", "13812345678"), ("email", "Me@Home.org", "me [at] home [dot] org"),
        ("iban", "GB82 WEST 1234 5698 7654 32", "GB82WEST12345698765432"), ("plate", "京A·12345", "京A12345"),
        ("ip", "2a00:0:0:0:0:0:0:1", "2a00::1"), ("resident_id", "11010519491231002x", "11010519491231002X"),
    ]:  # fmt: skip
        digits = [re.sub(r"\D", "", pseudonym(kind, value, KEY))[-8:] for value in (one, two)]  # type: ignore[arg-type]
        assert digits[0] == digits[1], kind


def test_the_recipe_redacts_tags_and_counts(
    corpus: Callable[..., Artifact], make: Callable[..., Artifact], rows: Callable[..., list[dict[str, Any]]]
) -> None:
    data = corpus({
        "a.txt": "mail me@home.org or call 13812345678 from 8.8.4.4 now", "b.txt": "nothing here to find, really",
        "c.txt": " ".join(f"user{n}@home.org" for n in range(9)),
    })  # fmt: skip
    made = make(Pii(data=data.ref, actions={"ip": "tag", "phone": "keep"}, max_found=5))
    assert [row["text"] for row in rows(made)] == [
        "mail [EMAIL] or call 13812345678 from 8.8.4.4 now", "nothing here to find, really",
    ]  # fmt: skip
    spans = pq.read_table(made.path / "pii-00000.parquet").to_pylist()
    text = rows(made)[0]["text"]
    assert [(s["kind"], s["action"], text[s["start"] : s["end"]]) for s in spans] == [
        ("email", "redact", "[EMAIL]"), ("ip", "tag", "8.8.4.4"),
    ]  # fmt: skip
    assert {s["document"] for s in spans} == {rows(made)[0]["id"]}
    report = Report.load(made.path)
    assert report.table("dropped by reason").rows[0][:2] == ["personal-data", 1]
    assert made.metrics["documents_in"] == 3
    for secret in ("me@home.org", "13812345678", "user3@home.org"):
        assert secret not in (made.path / "report.json").read_text(encoding="utf-8")


def test_the_key_is_needed_and_stored_nowhere(
    corpus: Callable[..., Artifact], make: Callable[..., Artifact], rows: Callable[..., list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    data = corpus({"a.txt": "mail me@home.org or you@home.org, then me@home.org again"})
    recipe = Pii(data=data.ref, action="pseudonym")
    monkeypatch.delenv("MOJIANG_PII_KEY", raising=False)
    with pytest.raises(BadUsage, match="is not set"):
        make(recipe)
    monkeypatch.setenv("MOJIANG_PII_KEY", "short")
    with pytest.raises(BadUsage, match="has 5 characters"):
        make(recipe)
    monkeypatch.setenv("MOJIANG_PII_KEY", KEY.decode())
    made = make(recipe)
    one, two, three = re.findall(r"user-[0-9a-f]{10}@example\.com", rows(made)[0]["text"])
    assert one == three != two
    for path in Path(made.path).rglob("*"):
        assert not path.is_file() or KEY not in path.read_bytes()
    print_of_one = recipe.fingerprint({}, 0)
    monkeypatch.setenv("MOJIANG_PII_KEY", KEY.decode() + "2")
    assert recipe.fingerprint({}, 0) != print_of_one
    assert Pii(data="x").identity() == {}


def test_senseless_settings_are_refused() -> None:
    for wrong in ({"kinds": ()}, {"kinds": ("ip",), "actions": {"card": "tag"}}, {"mark": "{x}"}, {"mark": "a@b.cn"}):
        with pytest.raises(ValidationError):
            Pii(data="x", **wrong)
