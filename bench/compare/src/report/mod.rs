//! `report`: the page `docs/performance.md` and its charts.
//!
//! The page is written by hand, but for the blocks between `<!-- report NAME -->` and `<!-- end NAME -->`: a new report
//! puts new figures there and leaves the words alone.

mod bars;
mod charts;
mod tables;

use std::fs;
use std::path::Path;

use harness::Result;

use crate::analysis::Sheet;
use crate::contender::Contender;
use crate::results::Results;
use crate::scenario::Scenario;

/// Writes tables into the page, and charts into the folder beside it that has its name.
pub(crate) fn write(
    results: &Results,
    scenarios: &[Scenario],
    contenders: &[Contender],
    page: &Path,
) -> Result<()> {
    let sheets = Sheet::all(results, scenarios, contenders);
    if sheets.is_empty() {
        return Err("the file of results has no cell of these scenarios".into());
    }
    let folder = page.with_extension("");
    fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let drawn = charts::draw(&sheets, &folder)?;
    let text = fs::read_to_string(page)
        .map_err(|error| format!("cannot read {}: {error}", page.display()))?;
    let blocks = [
        ("machine", tables::machine(results)),
        ("bars", bars::table(&sheets)),
        ("summary", tables::summary(&sheets)),
        ("growth", tables::growth(&sheets)),
        ("charts", links(&drawn, &folder)),
        ("cells", tables::cells(&sheets)),
    ];
    let filled = blocks
        .iter()
        .try_fold(text, |text, (name, block)| fill(&text, name, block));
    fs::write(page, filled?)
        .map_err(|error| format!("cannot write {}: {error}", page.display()))?;
    println!(
        "{} and {} charts in {}",
        page.display(),
        drawn.len(),
        folder.display()
    );
    Ok(())
}

/// The page with another text in one of its blocks.
fn fill(page: &str, name: &str, block: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- report {name} -->"),
        format!("<!-- end {name} -->"),
    );
    let parts = page
        .split_once(&begin)
        .and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let Some((before, after)) = parts else {
        return Err(format!("the page has no block {begin} .. {end}").into());
    };
    Ok(format!(
        "{before}{begin}\n\n{}\n\n{end}{after}",
        block.trim()
    ))
}

fn links(charts: &[charts::Chart], folder: &Path) -> String {
    let folder = folder.file_name().unwrap_or_default().to_string_lossy();
    let link = |chart: &charts::Chart| format!("![{}]({folder}/{})", chart.title, chart.file);
    charts.iter().map(link).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::{results, shipped};

    #[test]
    fn a_block_is_filled_again_and_again_and_the_rest_stays() {
        let page = "# A\n<!-- report x -->\nold\n<!-- end x -->\nrest\n";
        let once = fill(page, "x", "new\n").unwrap();
        assert_eq!(
            once,
            "# A\n<!-- report x -->\n\nnew\n\n<!-- end x -->\nrest\n"
        );
        assert_eq!(fill(&once, "x", "new\n").unwrap(), once);
        assert!(
            fill(page, "y", "")
                .unwrap_err()
                .to_string()
                .contains("report y")
        );
    }

    #[test]
    fn the_page_that_is_shipped_has_all_blocks() {
        let (scenarios, contenders) = shipped();
        let rounds = [(100.0, 5.0), (110.0, 5.1), (105.0, 4.9)];
        let results = results(
            "echo",
            "tcp-50x64x1",
            &[("kolk-uring", &rounds), ("tokio", &rounds)],
        );
        let folder = std::env::temp_dir().join(format!("kolk-report-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let page = folder.join("performance.md");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/performance.md");
        fs::copy(shipped, &page).unwrap();
        write(&results, &scenarios, &contenders, &page).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        let chart = fs::read_to_string(folder.join("performance/echo.svg")).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(
            text.contains("| tokio |") && text.contains("(performance/echo.svg)"),
            "{text}"
        );
        assert!(
            chart.starts_with("<svg") && chart.contains("tokio"),
            "{chart}"
        );
    }
}
