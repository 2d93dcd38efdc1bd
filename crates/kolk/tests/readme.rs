//! The README's code is examples that compile.

/// Asserts that the README shows an example, from its first `use` on.
#[track_caller]
fn shows(name: &str, example: &str) {
    let code = &example[example.find("\nuse ").expect("the example uses the library") + 1..];
    let readme = include_str!("../../../README.md");
    assert!(readme.contains(&format!("```rust\n{code}```")), "README.md and examples/{name}.rs differ");
}

#[test]
fn the_readme_shows_the_echo_examples() {
    shows("echo", include_str!("../examples/echo.rs"));
    shows("watcher_echo", include_str!("../examples/watcher_echo.rs"));
}

#[test]
fn every_example_is_listed() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let list = include_str!("../examples/README.md");
    for entry in std::fs::read_dir(examples).expect("the folder of this crate") {
        let name = entry.expect("readable").file_name().into_string().expect("text");
        assert!(name == "README.md" || list.contains(&format!("]({name})")), "{name} is not listed");
    }
}
