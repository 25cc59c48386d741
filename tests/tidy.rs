//! House rules a compiler cannot check.
//!
//! Each test reads the repository as text and names file and line of what breaks its rule. They
//! are rules of this project, so a better idea changes them here; ARCHITECTURE.md says why each
//! stands.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The only files that may contain unsafe code: registers, DMA memory, the kernel's VFIO, and a
/// library written in C.
const UNSAFE_FENCE: [&str; 4] = [
    "hwshim/multi-buffer/src/ffi.rs",
    "hwshim/src/bus/dma.rs",
    "hwshim/src/bus/mmio.rs",
    "hwshim/src/bus/vfio.rs",
];

/// Crates, where their sources are, and which of ours each may depend on.
const CRATES: [(&str, &str, &[&str]); 12] = [
    ("card-spec", "hwshim/spec", &[]),
    ("card-device", "firmware-sim/device", &["card-spec"]),
    (
        "firmware-sim",
        "firmware-sim",
        &["card-device", "card-spec", "multi-buffer"],
    ),
    (
        "hwshim",
        "hwshim",
        &["card-device", "card-spec", "multi-buffer"],
    ),
    ("multi-buffer", "hwshim/multi-buffer", &[]),
    (
        "monitor",
        "monitor",
        &[
            "attribution",
            "card-spec",
            "firmware-sim",
            "hwshim",
            "trend",
        ],
    ),
    ("attribution", "monitor/attribution", &["hwshim"]),
    ("trend", "monitor/trend", &[]),
    ("xtask", "tests/xtask", &[]),
    (
        "fuzz",
        "tests/fuzz",
        &[
            "card-device",
            "card-spec",
            "firmware-sim",
            "hwshim",
            "monitor",
        ],
    ),
    (
        "simulation",
        "tests/simulation",
        &["card-device", "firmware-sim", "hwshim", "monitor"],
    ),
    ("acceptance", ".", &[]),
];

/// What each lower module of hwshim may name of the others; any may name the scheduling points of
/// `model`, which exist in tests only. Modules that are not listed stand on top of all these, and
/// nothing listed may name them.
const HWSHIM_MODULES: [(&str, &[&str]); 12] = [
    ("clock", &[]),
    ("telemetry", &["clock"]),
    ("pci", &[]),
    ("bus", &["clock", "pci"]),
    ("accelerator", &["clock", "key"]),
    ("virtio", &["accelerator", "bus", "clock", "key"]),
    // Keys and known answers are checked the way the router checks what a card returns.
    ("key", &["accelerator", "router"]),
    ("kat", &["accelerator", "key", "router"]),
    (
        "router",
        &["accelerator", "clock", "kat", "key", "telemetry"],
    ),
    ("provider", &["accelerator", "key", "router"]),
    ("acceptor", &["provider", "router"]),
    ("terminator", &["acceptor", "clock", "provider"]),
];

/// What the monitor may name of hwshim. Not the bus: watching a card must not be able to hang it.
const MONITOR_SEES: [&str; 4] = ["clock", "pci", "spec", "telemetry"];
/// And who weighs evidence, the time alone.
const ATTRIBUTION_SEES: [&str; 1] = ["clock"];
/// What its program may name besides, to start a simulated card and an owner for it.
const CARDMON_SEES: [&str; 3] = ["address", "owner", "stop"];

#[test]
fn every_source_file_says_what_it_is() {
    let files = files();
    let silent = files
        .iter()
        .filter(|file| file.is_rust() && !file.text.starts_with("//!"));
    complain(silent.map(|file| format!("{} does not open with //!", file.path)));
}

#[test]
fn unsafe_code_stays_inside_its_fence() {
    let mut complaints = Vec::new();
    for file in files().iter().filter(|file| file.is_rust()) {
        let code = code(&file.text);
        if !UNSAFE_FENCE.contains(&file.path.as_str()) {
            complaints.extend(file.at(&code, "unsafe", "unsafe code outside the fence"));
        } else if !opens_with_a_reason(&code) {
            complaints.push(format!(
                "{} does not open with #![expect(unsafe_code, reason = ...)]",
                file.path
            ));
        }
    }
    complain(complaints);
}

/// Whether the first item of a file expects unsafe code, and only that, with a reason.
fn opens_with_a_reason(code: &str) -> bool {
    let compact: String = code.split_whitespace().collect();
    compact.starts_with("#![expect(unsafe_code,reason=")
}

#[test]
fn lints_are_silenced_with_expect() {
    let mut complaints = Vec::new();
    for file in files().iter().filter(|file| file.is_rust()) {
        for (number, line) in code(&file.text).lines().enumerate() {
            if line.contains("#[allow(") || line.contains("#![allow(") {
                let line = number + 1;
                complaints.push(format!(
                    "{}:{line}: write #[expect(lint, reason = ...)]",
                    file.path
                ));
            }
        }
    }
    complain(complaints);
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    complain(
        files()
            .iter()
            .filter(|file| file.name() == "Cargo.toml")
            .filter_map(|file| {
                let takes = section(&file.text, "lints").any(|line| line == "workspace = true");
                (!takes).then(|| format!("{} lacks [lints] workspace = true", file.path))
            }),
    );
}

#[test]
fn crates_depend_on_each_other_in_one_direction() {
    let files = files();
    let mut complaints = Vec::new();
    for (name, directory, may) in CRATES {
        let manifest = match directory {
            "." => "Cargo.toml".to_owned(),
            directory => format!("{directory}/Cargo.toml"),
        };
        let file = files.iter().find(|file| file.path == manifest);
        let Some(file) = file else {
            complaints.push(format!("{manifest} is missing"));
            continue;
        };
        for line in section(&file.text, "dependencies") {
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let ours = CRATES.iter().any(|(krate, ..)| *krate == dependency);
            if ours && !may.contains(&dependency) {
                complaints.push(format!(
                    "{manifest}: {name} must not depend on {dependency}"
                ));
            }
        }
    }
    complain(complaints);
}

#[test]
fn modules_of_hwshim_depend_on_each_other_in_one_direction() {
    let mut complaints = Vec::new();
    let known: BTreeMap<_, _> = HWSHIM_MODULES.into_iter().collect();
    for file in files().iter().filter(|file| file.is_rust()) {
        let Some(inside) = file.path.strip_prefix("hwshim/src/") else {
            continue;
        };
        let module = inside.split(['/', '.']).next().unwrap_or_default();
        let Some(may) = known.get(module) else {
            continue;
        };
        for (line, named) in named_modules(&code_without_tests(&file.text), "crate") {
            if !["model", "spec", module].contains(&named.as_str())
                && !may.contains(&named.as_str())
            {
                complaints.push(format!(
                    "{}:{line}: {module} must not know {named}",
                    file.path
                ));
            }
        }
    }
    complain(complaints);
}

#[test]
fn the_monitor_cannot_reach_a_card() {
    let mut complaints = Vec::new();
    for file in files().iter().filter(|file| file.is_rust()) {
        let inside = file.path.strip_prefix("monitor/src/");
        let weighs = file.path.starts_with("monitor/attribution/src/");
        let Some(inside) = inside.or_else(|| weighs.then_some(&*file.path)) else {
            continue;
        };
        let sees = if weighs {
            &ATTRIBUTION_SEES[..]
        } else {
            &MONITOR_SEES
        };
        let code = code_without_tests(&file.text);
        let program = inside == "main.rs" || inside.starts_with("bin/");
        for (line, named) in named_modules(&code, "hwshim") {
            let sees =
                sees.contains(&named.as_str()) || program && CARDMON_SEES.contains(&named.as_str());
            if !sees {
                complaints.push(format!("{}:{line}: hwshim::{named}", file.path));
            }
        }
        if !program {
            complaints.extend(file.at(&code, "firmware_sim", "only the program may start a card"));
        }
    }
    complain(complaints);
}

/// A promise is a line `| P-012 | what is promised | tests/file.rs::test_name |` of
/// SPECIFICATION.md, or `crate::module::test_name` in the last column; several tests are
/// separated by commas.
#[test]
fn every_promise_names_a_test_that_exists() {
    let Ok(specification) = fs::read_to_string(root().join("SPECIFICATION.md")) else {
        eprintln!("skipped: there is no SPECIFICATION.md yet");
        return;
    };
    let files = files();
    let mut complaints = Vec::new();
    let mut seen = Vec::new();
    for line in specification
        .lines()
        .filter(|line| line.starts_with("| P-"))
    {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [promise, _, tests] = cells[..] else {
            complaints.push(format!("not of the form | P-n | promise | test |: {line}"));
            continue;
        };
        if seen.contains(&promise) {
            complaints.push(format!("{promise} stands there twice"));
        }
        seen.push(promise);
        for test in tests.split(',').map(|test| test.trim().trim_matches('`')) {
            if !test_exists(&files, test) {
                complaints.push(format!("{promise} names {test}, which is no test"));
            }
        }
    }
    assert!(!seen.is_empty(), "SPECIFICATION.md promises nothing");
    complain(complaints);
}

fn test_exists(files: &[File], test: &str) -> bool {
    let Some((place, name)) = test.rsplit_once("::") else {
        return false;
    };
    let declares = |file: &File| code(&file.text).contains(&format!("fn {name}("));
    if place.ends_with(".rs") {
        return files
            .iter()
            .any(|file| file.path == place && declares(file));
    }
    let mut modules = place.split("::");
    let krate = modules.next().unwrap_or_default().replace('_', "-");
    let Some((_, directory, _)) = CRATES.iter().find(|(name, ..)| *name == krate) else {
        return false;
    };
    // The last modules of the path may stand inside a file, as `mod tests` does.
    let mut stems = vec![
        format!("{directory}/src/lib.rs"),
        format!("{directory}/src/main.rs"),
    ];
    let mut stem = format!("{directory}/src");
    for module in modules {
        stem = format!("{stem}/{module}");
        stems.push(format!("{stem}.rs"));
    }
    files
        .iter()
        .any(|file| stems.contains(&file.path) && declares(file))
}

/// Programs that the README may run, and where their subcommands are declared.
const PROGRAMS: [(&str, &str); 4] = [
    ("xtask", "tests/xtask/src/"),
    ("hwshim", "hwshim/src/"),
    ("cardmon", "monitor/src/"),
    ("firmware-sim", "firmware-sim/src/"),
];

#[test]
fn commands_of_the_readme_exist() {
    let Ok(readme) = fs::read_to_string(root().join("README.md")) else {
        eprintln!("skipped: there is no README.md yet");
        return;
    };
    let files = files();
    let mut complaints = Vec::new();
    for command in commands(&readme) {
        let words: Vec<_> = command.split_whitespace().collect();
        let Some((program, subcommand)) = called(&words) else {
            continue;
        };
        match PROGRAMS.iter().find(|(name, _)| *name == program) {
            None => complaints.push(format!("README.md: `{command}`: there is no {program}")),
            Some((_, sources)) if !has_subcommand(&files, sources, subcommand) => complaints.push(
                format!("README.md: `{command}`: {program} has no {subcommand}"),
            ),
            Some(_) => {}
        }
    }
    if !readme.contains("cargo xtask test") {
        complaints.push("README.md does not say how to test: cargo xtask test".to_owned());
    }
    complain(complaints);
}

/// The program of ours that a command runs, and its subcommand, if it runs one.
fn called<'a>(words: &[&'a str]) -> Option<(&'a str, &'a str)> {
    let (program, rest) = match words {
        ["cargo", "run", arguments @ ..] => {
            let bin = arguments.iter().position(|word| *word == "--bin")?;
            let end = arguments.iter().position(|word| *word == "--")?;
            (*arguments.get(bin + 1)?, &arguments[end + 1..])
        }
        ["cargo", program @ "xtask", rest @ ..] => (*program, rest),
        [program, rest @ ..] if PROGRAMS.iter().any(|(name, _)| name == program) => {
            (*program, rest)
        }
        _ => return None,
    };
    let subcommand = rest.first()?;
    subcommand
        .starts_with(|first: char| first.is_ascii_lowercase())
        .then_some((program, *subcommand))
}

/// Whether some enum below `sources` has the variant that clap makes `subcommand` of.
fn has_subcommand(files: &[File], sources: &str, subcommand: &str) -> bool {
    let variant = pascal_case(subcommand);
    let declares = |line: &str| {
        line.trim().strip_prefix(&variant).is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(['(', ',']) || rest.starts_with(" {")
        })
    };
    files
        .iter()
        .filter(|file| file.path.starts_with(sources) && file.is_rust())
        .any(|file| code(&file.text).lines().any(declares))
}

/// Lines of the fenced shell blocks of a Markdown text, and what stands between backquotes.
fn commands(markdown: &str) -> Vec<&str> {
    let mut fence = None;
    let mut commands = Vec::new();
    for line in markdown.lines().map(str::trim) {
        match (line.strip_prefix("```"), fence) {
            (Some(language), None) => fence = Some(language),
            (Some(_), Some(_)) => fence = None,
            (None, Some("console" | "sh")) => commands.push(line.trim_start_matches("$ ")),
            (None, Some(_)) => {}
            (None, None) => commands.extend(line.split('`').skip(1).step_by(2)),
        }
    }
    commands
}

fn pascal_case(words: &str) -> String {
    words
        .split('-')
        .filter_map(|word| {
            let (first, rest) = word.split_at_checked(1)?;
            Some(first.to_uppercase() + rest)
        })
        .collect()
}

#[test]
fn ci_runs_what_the_readme_says() {
    let script = fs::read_to_string(root().join(".ci/run")).expect(".ci/run is readable");
    assert!(script.lines().any(|line| line == "cargo xtask test"));
}

/// Names of hosts and paths that mean something on one machine only, or that go out of date.
#[test]
fn no_file_names_a_registry_or_a_workplace() {
    // In two halves, so that this file does not contain them.
    let forbidden = [
        ["crates", ".io"],
        ["py", "pi"],
        ["registry.npm", "js"],
        ["deb.deb", "ian.org"],
        ["/wo", "rk/"],
    ]
    .map(|halves| halves.concat());
    let mut complaints = Vec::new();
    // Cargo writes the registry into its lock file itself.
    for file in files().iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in file.text.lines().enumerate() {
            if let Some(word) = forbidden.iter().find(|word| line.contains(*word)) {
                complaints.push(format!("{}:{}: contains {word}", file.path, number + 1));
            }
        }
    }
    complain(complaints);
}

fn complain(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<_> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// One file of the repository, as text.
struct File {
    /// From the top of the repository, with `/`.
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Complains of each line of `code` that contains `word` as a whole word.
    fn at(&self, code: &str, word: &str, complaint: &str) -> Vec<String> {
        code.lines()
            .enumerate()
            .filter(|(_, line)| words(line).any(|found| found == word))
            .map(|(number, _)| format!("{}:{}: {complaint}", self.path, number + 1))
            .collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file but what is built and what git keeps. Links are not followed: captured trees of
/// sysfs have circles.
fn files() -> Vec<File> {
    let mut files = Vec::new();
    let mut directories = vec![root().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("the repository is readable") {
            let entry = entry.expect("the repository is readable");
            let path = entry.path();
            let kind = entry.file_type().expect("the repository is readable");
            let relative = path.strip_prefix(root()).expect("below the root");
            let relative = relative.to_string_lossy().into_owned();
            if matches!(relative.as_str(), "target" | ".git") {
                continue;
            } else if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() {
                let bytes = fs::read(&path).expect("the repository is readable");
                let text = String::from_utf8_lossy(&bytes).into_owned();
                files.push(File {
                    path: relative,
                    text,
                });
            }
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

/// Lines of one section of a TOML file.
fn section<'a>(toml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let header = format!("[{name}]");
    toml.lines()
        .map(str::trim)
        .skip_while(move |line| *line != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphanumeric() && character != '_')
}

/// The modules that code names right below `krate`, with their lines: `bus` in `crate::bus::dma`,
/// `bus` and `pci` in `crate::{bus::dma, pci}`.
fn named_modules(code: &str, krate: &str) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    let path = format!("{krate}::");
    for (start, _) in code.match_indices(&path) {
        let before = code[..start].chars().next_back();
        if before
            .is_some_and(|before| before.is_alphanumeric() || matches!(before, '_' | ':' | '$'))
        {
            continue;
        }
        let line = code[..start].matches('\n').count() + 1;
        let rest = &code[start + path.len()..];
        for name in first_names(rest) {
            named.push((line, name.to_owned()));
        }
    }
    named
}

/// The first name of a path, or of each path in braces.
fn first_names(paths: &str) -> Vec<&str> {
    let Some(group) = paths.strip_prefix('{') else {
        return words(paths).take(1).collect();
    };
    let mut depth = 0;
    let mut names = Vec::new();
    let mut start = 0;
    for (end, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                names.extend(
                    words(group[start..end].trim())
                        .next()
                        .filter(|name| !name.is_empty()),
                );
                start = end + 1;
                if character == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names
}

/// [`code`] up to the first module of tests, which may know whom it likes.
fn code_without_tests(text: &str) -> String {
    let code = code(text);
    let tests = code.find("#[cfg(test)]\nmod ").unwrap_or(code.len());
    code[..tests].to_owned()
}

/// A source text with comments and literals blanked out, line by line as long as before.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let blank = comment_len(rest).or_else(|| literal_len(rest, code.chars().next_back()));
        let Some(len) = blank else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        let (blanked, after) = rest.split_at(len);
        code.extend(
            blanked
                .chars()
                .map(|character| if character == '\n' { '\n' } else { ' ' }),
        );
        rest = after;
    }
    code
}

fn comment_len(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let mut depth = 0;
    for (at, _) in text.char_indices() {
        match text.as_bytes()[at..] {
            [b'/', b'*', ..] => depth += 1,
            [b'*', b'/', ..] => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 2);
        }
    }
    Some(text.len())
}

fn literal_len(text: &str, before: Option<char>) -> Option<usize> {
    if let Some(quote) = text.strip_prefix('\'') {
        return character_len(quote).map(|len| len + 1);
    }
    if let Some(quoted) = text.strip_prefix('"') {
        return Some(1 + string_len(quoted));
    }
    let word_goes_on = before.is_some_and(|before| before.is_alphanumeric() || before == '_');
    let hashed = text.strip_prefix("br").or_else(|| text.strip_prefix('r'));
    let (false, Some(hashed)) = (word_goes_on, hashed) else {
        return None;
    };
    let hashes = hashed.len() - hashed.trim_start_matches('#').len();
    let opened = hashed[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", &hashed[..hashes]);
    let close = opened.find(&end).map_or(opened.len(), |at| at + end.len());
    Some(text.len() - opened.len() + close)
}

/// Bytes up to and including the quote that ends a character, if it is one and no lifetime.
fn character_len(text: &str) -> Option<usize> {
    let mut characters = text.char_indices();
    let (_, first) = characters.next()?;
    if first == '\\' {
        characters.next()?;
        return characters
            .find(|(_, character)| *character == '\'')
            .map(|(at, _)| at + 1);
    }
    characters
        .next()
        .filter(|(_, second)| *second == '\'')
        .map(|(at, _)| at + 1)
}

/// Bytes up to and including the quote that ends a string.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn code_is_told_from_comments_and_literals() {
    let text = r##"let a = "unsafe \" x"; // unsafe
let b = r#"uns"afe"#; /* /* unsafe */ */ let c = 'x'; let d: &'static str = '\''; e"##;
    let code = code(text);
    assert_eq!(code.len(), text.len());
    let left: Vec<_> = words(&code).filter(|word| !word.is_empty()).collect();
    assert_eq!(
        left,
        [
            "let", "a", "let", "b", "let", "c", "let", "d", "static", "str", "e"
        ]
    );
}

#[test]
fn modules_are_found_in_paths_and_groups() {
    let code = "use crate::bus::dma;\nuse crate::{pci, virtio::{queue, card}, clock};\nmycrate::x";
    let found: Vec<_> = named_modules(code, "crate");
    let expected = [(1, "bus"), (2, "pci"), (2, "virtio"), (2, "clock")];
    assert_eq!(found, expected.map(|(line, name)| (line, name.to_owned())));
}
