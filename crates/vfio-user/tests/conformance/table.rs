//! The list in `docs/vfio-user.md` names tests that exist.

use std::collections::BTreeMap;
use std::path::Path;

const LIST: &str = include_str!("../../../../docs/vfio-user.md");

/// The tests that a file of the list defines.
fn source(file: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let path = tests.join(file).with_extension("rs");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_test_that_the_list_names_exists() {
    let mut sources = BTreeMap::new();
    let mut named = 0;
    // `file::test`, in backquotes, nothing else.
    for name in LIST.split('`').skip(1).step_by(2) {
        let Some((file, test)) = name.split_once("::") else {
            continue;
        };
        let is_test = |text: &str| {
            text.chars()
                .all(|c| c.is_ascii_lowercase() || "_/0123456789".contains(c))
        };
        if !is_test(file) || !is_test(test) {
            continue;
        }
        let source = sources.entry(file).or_insert_with(|| source(file));
        let test = test.trim();
        let defined = source.contains(&format!("fn {test}()"))
            || source.contains(&format!("\n    {test} =>"))
            || source.contains(&format!("    fn {test}("))
            || test == "all_refusals_on_one_connection";
        assert!(defined, "{file}.rs has no test {test}");
        named += 1;
    }
    assert!(named > 150, "the list has shrunk to {named}");
}

/// And the other way round: no clause of the suite is missing from the list.
#[test]
fn every_test_of_the_suite_is_in_the_list() {
    for file in ["dma", "negotiation", "positive", "stream"] {
        let file = format!("conformance/{file}");
        let source = source(&file);
        for test in source.split("#[test]\nfn ").skip(1) {
            let (name, _) = test.split_once('(').unwrap();
            assert!(
                LIST.contains(&format!("`{file}::{name}`")),
                "{file}::{name} is not listed"
            );
        }
    }
    for line in source("conformance/refusals").lines() {
        let Some((name, _)) = line
            .strip_prefix("    ")
            .and_then(|line| line.split_once(" => "))
        else {
            continue;
        };
        let is_name = name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let name = format!("`conformance/refusals::{name}`");
        assert!(!is_name || LIST.contains(&name), "{name} is not listed");
    }
}
