//! Findings as annotations of a GitHub workflow.

use dispatch_core::config::Diagnostic;

/// `::error file=…,line=…,col=…::…`, with what GitHub reads as its own escaped.
pub(super) fn annotation(finding: &Diagnostic) -> String {
    let escaped = |text: &str, more: bool| {
        let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        if more {
            text.replace(':', "%3A").replace(',', "%2C")
        } else {
            text
        }
    };
    let level = if finding.warning { "warning" } else { "error" };
    let help = finding
        .help
        .as_ref()
        .map(|help| format!("\n{help}"))
        .unwrap_or_default();
    format!(
        "::{level} file={},line={},col={}::{}",
        escaped(&finding.origin, true),
        finding.line,
        finding.column,
        escaped(&format!("{}{help}", finding.message), false)
    )
}
