//! The bugs of `mutations.toml` can still be planted: what each replaces is there, once. `make mutations` plants them.

use std::path::Path;

use serde::Deserialize;

#[derive(Deserialize)]
struct Mutations {
    mutation: Vec<Mutation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    name: String,
    file: String,
    before: String,
    after: String,
    caught_by: String,
}

#[test]
fn each_bug_can_still_be_planted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let list: Mutations = toml::from_str(include_str!("../mutations.toml")).expect("valid TOML");
    assert!(list.mutation.len() >= 6);
    for Mutation { name, file, before, after, caught_by } in list.mutation {
        let text = std::fs::read_to_string(root.join(&file)).unwrap_or_else(|error| panic!("{name}: {file}: {error}"));
        assert_eq!(text.matches(before.trim_matches('\n')).count(), 1, "{name}: in {file}");
        assert!(before != after && caught_by.contains("--test ") || caught_by.contains("--lib"), "{name}");
    }
}
