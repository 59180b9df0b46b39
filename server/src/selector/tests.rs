use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Vec<(String, Vec<String>, bool)> {
    let selector: Selector = text.parse().unwrap();
    selector.0.into_iter().map(|r| (r.name, r.values, r.is_negated)).collect()
}

fn one(name: &str, values: &[&str], is_negated: bool) -> (String, Vec<String>, bool) {
    (name.to_owned(), values.iter().map(|&value| value.to_owned()).collect(), is_negated)
}

#[test]
fn every_form_of_a_requirement_is_read() {
    let expected = [
        one("os", &["linux"], false),
        one("site", &["paris", "rome"], false),
        one("legacy", &[], true),
        one("gpu", &[], false),
        one("tier", &["web"], true),
        one("zone", &["a", "b"], true),
        one("in", &["x"], false),
        one("empty", &[""], false),
    ];
    let text = " os = linux ,site in (paris, rome),!legacy, gpu ,tier!=web,zone notin(a,b),in==x,empty=";
    // `zone notin(` has no space before its bracket, as in Kubernetes.
    assert_eq!(parsed(text), expected);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, place) in [
        ("", 1),
        ("os=linux,", 10),
        ("os linux", 4),
        ("site in paris", 9),
        ("site in (paris", 15),
        ("os=a b", 6),
        ("!", 2),
        ("-os=linux", 1),
        ("os!linux", 4),
        ("os=linux)", 9),
    ] {
        let wrong = text.parse::<Selector>().unwrap_err();
        assert_eq!(wrong.place, place, "{text:?}: {wrong}");
    }
}

#[test]
fn bounds_are_refused_and_not_passed() {
    let many = |count: usize| (0..count).map(|n| format!("a{n}")).collect::<Vec<_>>().join(",");
    let is_read = |text: String| text.parse::<Selector>().is_ok();
    assert!(is_read(many(MAX_REQUIREMENTS)) && !is_read(many(MAX_REQUIREMENTS + 1)));
    let values = |count| format!("a in ({})", many(count));
    assert!(is_read(values(MAX_VALUES)) && !is_read(values(MAX_VALUES + 1)));
    let value = |bytes| format!("a={}", "x".repeat(bytes));
    assert!(is_read(value(MAX_NAME_BYTES)) && !is_read(value(MAX_NAME_BYTES + 1)));
    assert!(!is_read(" ".repeat(MAX_CHARACTERS) + "a"));
}

prop_compose! {
    fn requirement()(
        name in "[a-zA-Z0-9][a-zA-Z0-9._/-]{0,20}",
        values in prop::collection::vec("[^\\s\\p{Cc},()=!\"'\\\\]{0,8}", 0..4),
        is_negated: bool,
    ) -> Requirement {
        Requirement { name, values, is_negated }
    }
}

proptest! {
    #[test]
    fn what_is_shown_is_read_as_the_same(requirements in prop::collection::vec(requirement(), 1..6)) {
        let selector = Selector(requirements);
        prop_assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector);
    }

    #[test]
    fn any_text_is_read_or_refused_within_itself(text in ".{0,64}") {
        match text.parse::<Selector>() {
            Ok(selector) => prop_assert!(selector.requirements().iter().all(|r| is_name(&r.name))),
            Err(wrong) => prop_assert!(wrong.place >= 1 && wrong.place <= text.chars().count() + 2),
        }
    }
}
