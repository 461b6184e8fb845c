//! What the documentation shows is so. (The examples themselves are linted in `cli/verbs.rs`.)

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The README and every page below `docs`.
fn pages() -> Vec<PathBuf> {
    fn walk(directory: &Path, pages: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, pages);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                pages.push(path);
            }
        }
    }
    let mut pages = vec![root().join("README.md")];
    walk(&root().join("docs"), &mut pages);
    pages.sort();
    pages
}

/// The blocks of a page in one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(tongue) = line.strip_prefix("```") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            if tongue == language {
                blocks.push(block.join("\n"));
            }
        }
    }
    blocks
}

fn dispatch(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dispatch"))
        .current_dir(root())
        .args(args)
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn the_first_pipeline_of_each_page_and_every_whole_one_is_right() {
    let directory = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for page in pages() {
        let is_whole = |block: &str| ["[source]\n", "[sink]\n"].iter().all(|part| block.contains(part));
        let blocks = blocks(&fs::read_to_string(&page).unwrap(), "toml")
            .into_iter()
            .enumerate();
        for (_, block) in blocks.filter(|(number, block)| *number == 0 || is_whole(block)) {
            let file = directory.path().join("page.toml");
            fs::write(&file, block).unwrap();

            let (right, found) = dispatch(&["lint", "--deny-warnings", &file.to_string_lossy()]);

            assert!(right, "{}: {found}", page.display());
            // Each component is made, which says more than its keys.
            let made = Command::new(env!("CARGO_BIN_EXE_dispatch"))
                .current_dir(&directory)
                .args(["check", "--no-network", "page.toml"])
                .output()
                .unwrap();
            let words = String::from_utf8_lossy(&made.stderr);
            assert!(made.status.success(), "{}: {words}", page.display());
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} pipelines");
}

#[test]
fn the_quickstart_in_the_readme_is_the_file() {
    let bare = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .map(|line| line.split_once('#').map_or(line, |(line, _)| line).trim_end());
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let block = blocks(&text("README.md"), "toml").swap_remove(0);

    assert_eq!(bare(&block), bare(&text("examples/quickstart.toml")));
}

#[test]
fn the_library_in_the_readme_is_an_example_of_fewer_than_fifteen_lines() {
    let example = text("examples/examples/hello.rs");
    let (_, code) = example.split_once('\n').unwrap();

    for page in ["README.md", "docs/library.md"] {
        let block = blocks(&text(page), "rust").swap_remove(0);
        assert_eq!(block.trim(), code.trim(), "{page}");
    }
    assert!(code.lines().filter(|line| !line.is_empty()).count() < 15);
}

#[test]
fn every_component_has_its_page() {
    for kind in ["sources", "sinks", "stores"] {
        let (_, listed) = dispatch(&["list", kind]);
        let lines: Vec<_> = listed
            .lines()
            .filter_map(|line| {
                let mut words = line.strip_prefix("  ")?.split_whitespace();
                words.next().zip(words.next())
            })
            .collect();
        assert!(!lines.is_empty(), "{listed}");
        for (name, stability) in lines {
            let page = root().join(format!("docs/{kind}/{name}.md"));
            assert!(page.exists(), "there is no {}", page.display());
            let page = fs::read_to_string(page).unwrap().to_lowercase();
            let says = format!("[{stability}](../configuration.md#stability)");
            assert!(page.contains(&says), "{kind}/{name} is {stability}");
        }
    }
}

#[test]
fn every_metric_is_in_the_table() {
    let page = text("docs/operations.md");
    let names = text("dispatch-core/src/telemetry/names.rs");
    let names: Vec<_> = names.split('"').filter(|part| part.starts_with("dispatch_")).collect();

    assert!(names.len() > 10);
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let mut in_block = false;
        for line in text.lines() {
            in_block ^= line.starts_with("```");
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let path = link.split('#').next().unwrap_or_default();
                if in_block || path.is_empty() || link.starts_with("http") {
                    continue;
                }
                let target = page.parent().unwrap().join(path);
                assert!(target.exists(), "{}: {link}", page.display());
            }
        }
    }
}

#[test]
fn the_schema_validates_every_example_and_the_first_pipeline_of_each_page() {
    let (printed, schema) = dispatch(&["schema"]);
    assert!(printed, "{schema}");
    let schema = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let examples = fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut texts: Vec<_> = examples
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter(|path| path.file_name().is_some_and(|name| name != "Cargo.toml"))
        .map(|path| (path.display().to_string(), fs::read_to_string(path).unwrap()))
        .collect();
    assert!(texts.len() > 5, "{texts:?}");
    for page in pages() {
        let block = blocks(&fs::read_to_string(&page).unwrap(), "toml").into_iter().next();
        texts.extend(block.map(|block| (page.display().to_string(), block)));
    }

    for (name, text) in texts {
        let value: serde_json::Value = toml::from_str(&text).unwrap();
        // Pages show parts of files too; a pipeline has a sink.
        if value.get("sink").is_none() {
            continue;
        }
        let mistakes: Vec<_> = validator
            .iter_errors(&value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(mistakes.is_empty(), "{name}: {}", mistakes.join("; "));
    }
}

#[test]
fn the_schema_refuses_what_lint_refuses() {
    let (_, schema) = dispatch(&["schema"]);
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let good = "source = { type = \"stdin\" }\nsink = { type = \"stdout\" }\n";
    for bad in [
        "nme = \"x\"",
        "layers.timeout = 30",
        "layers.retyr = \"off\"",
        "store = { type = \"nosuch\" }",
        "lanes = { key = \"key\", policy = \"park_key\" }",
    ] {
        let value: serde_json::Value = toml::from_str(&format!("{bad}\n{good}")).unwrap();

        assert!(!validator.is_valid(&value), "{bad}");
    }
}
