import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from provenlm.domains.text.filter import language_id
from provenlm.domains.text.filter.language_id import LanguageFilterConfig

TEXTS = {
    "en": "The quick brown fox jumps over the lazy dog, and nobody in the village was surprised by it at all.",
    "de": "Der Zug nach München fährt heute leider erst eine halbe Stunde später ab, weil es geschneit hat.",
    "fr": "Nous avons passé toute la journée à la plage, mais il commençait à faire froid vers le soir.",
    "es": "Mañana por la mañana iremos al mercado para comprar pan, queso y un poco de fruta fresca.",
    "ru": "Вчера вечером мы долго гуляли по берегу реки и говорили о том, что будет дальше.",
    "zh": "今天天气很好，我们一起去公园散步，然后在附近的餐馆吃了午饭。",
    "ar": "ذهبنا أمس إلى السوق واشترينا الخبز والفاكهة ثم عدنا إلى البيت قبل غروب الشمس.",
    "ja": "昨日は友達と一緒に映画を見に行って、そのあと喫茶店でゆっくり話しました。",
}


@pytest.mark.parametrize("language", TEXTS)
def test_the_language_of_a_sentence_is_identified(language):
    identified, probability = language_id.identify_language(TEXTS[language].encode())
    assert identified == language
    assert probability > 0.9


def test_a_text_without_letters_has_an_unknown_language():
    assert language_id.identify_language(b"12 + 3 = 15\n---") == ("unknown", 0.0)


def test_only_confident_other_languages_are_dropped():
    config = LanguageFilterConfig(("en",), 0.9)
    assert config.drop_reason("de", 0.99) == "other_language"
    assert config.drop_reason("de", 0.5) is None
    assert config.drop_reason("en", 0.99) is None
    assert LanguageFilterConfig((), 0.9).drop_reason("de", 1.0) is None


def test_a_name_in_place_of_a_code_is_refused():
    with pytest.raises(ValueError, match="languages must be two-letter codes such as en, got English"):
        LanguageFilterConfig(("English",), 0.5)


@pytest.mark.parametrize("text", [*TEXTS.values(), "", "###", "ALL IN CAPITALS", "e\u0301te\u0301", " ".join(TEXTS.values()) * 20])
def test_the_compiled_identifier_gives_exactly_the_results_of_the_library(text):
    reference = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    assert language_id._identifier().rank(text) == reference.rank(text)


def test_a_character_cut_by_the_limit_does_not_change_the_result():
    for offset in range(4):
        assert language_id.identify_language(b"a" * offset + "日本語です".encode() * 4000)[0] == "ja"
