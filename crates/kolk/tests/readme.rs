//! The README's code is an example that compiles.

#[test]
fn the_readme_shows_the_echo_example() {
    let example = include_str!("../examples/echo.rs");
    let code = &example[example.find("use kolk").expect("the example uses the library")..];
    let readme = include_str!("../../../README.md");
    assert!(readme.contains(&format!("```rust\n{code}```")), "README.md and examples/echo.rs differ");
}
