//! Findings as SARIF 2.1.0 (OASIS), which code scanning reads.

use dispatch_core::config::Diagnostic;
use serde_json::{Value, json};

/// Where the schema of the format is.
const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json";

/// One run with all findings.
pub(super) fn sarif(findings: &[Diagnostic]) -> Value {
    let rule = |id: &str, text: &str, level: &str| json!({ "id": id, "shortDescription": { "text": text }, "defaultConfiguration": { "level": level } });
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "dispatch lint",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": [
                    rule("mistake", "The file cannot be used", "error"),
                    rule("warning", "The file can be used, and should be changed", "warning"),
                ],
            } },
            "columnKind": "unicodeCodePoints",
            "results": findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

fn result(finding: &Diagnostic) -> Value {
    let (rule, level) = if finding.warning {
        ("warning", "warning")
    } else {
        ("mistake", "error")
    };
    let help = finding.help.iter().map(|help| format!("\n{help}"));
    let text: String = std::iter::once(finding.message.clone()).chain(help).collect();
    json!({
        "ruleId": rule,
        "level": level,
        "message": { "text": text },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": uri(&finding.origin) },
            "region": { "startLine": finding.line.max(1), "startColumn": finding.column.max(1) },
        } }],
    })
}

/// A path as a reference of RFC 3986; a relative one stays relative.
fn uri(path: &str) -> String {
    let mut uri = String::with_capacity(path.len());
    for byte in path.strip_prefix("./").unwrap_or(path).bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    if path.starts_with('/') {
        format!("file://{uri}")
    } else {
        uri
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_references() {
        for (path, expected) in [
            ("a/b.toml", "a/b.toml"),
            ("./a.toml", "a.toml"),
            ("a b:c%.toml", "a%20b%3Ac%25.toml"),
            ("/etc/d.toml", "file:///etc/d.toml"),
        ] {
            assert_eq!(uri(path), expected);
        }
    }
}
