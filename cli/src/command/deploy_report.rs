//! What a deploy tells: lines or a live table for people, JSON and JUnit for machines. What happens is decided
//! elsewhere; here it is only told.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use deployer::{
    Assignment, Change, End, Event, Finding, HeldTarget, ImageChange, ObjectName, Outcome as Rollout, Plan,
    TargetOutcome, Undone, UndoneTarget,
};
use serde::Serialize;

use super::table::Table;
use crate::args::{OutputFormat, ReportArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::{out, tell};

/// The format of the JSON document.
const FORMAT: u32 = 1;

/// Tells one deploy.
pub struct Report {
    output: OutputFormat,
    files: [Option<PathBuf>; 2],
    start: Instant,
    told: RefCell<Document>,
    table: RefCell<Option<Table>>,
    section: RefCell<Option<&'static str>>,
    /// Whether stdout is ours at all.
    quiet: bool,
}

/// All that happened.
#[derive(Debug, Default, Serialize)]
struct Document {
    format: u32,
    /// The only one, if it is one.
    image: Option<String>,
    images: Vec<String>,
    changed: bool,
    exit: u8,
    error: Option<String>,
    seconds: f64,
    plan: Vec<PlannedObject>,
    findings: Vec<Finding>,
    targets: Vec<TargetOutcome>,
    undone: Vec<UndoneTarget>,
    held: Vec<HeldTarget>,
}

/// An action without its body, which may hold secrets.
#[derive(Debug, Serialize)]
struct PlannedObject {
    object: ObjectName,
    change: Change,
    images: Vec<ImageChange>,
}

impl Report {
    /// Begins to tell. Files that cannot be written are found out before anything is done.
    pub fn new(args: &ReportArgs) -> Outcome<Self> {
        let files = [args.output_json.clone(), args.report_junit.clone()];
        for path in files.iter().flatten() {
            write_file(path, "")?;
        }
        let is_live = std::io::stderr().is_terminal() && args.output == OutputFormat::Text;
        let section = settings::variable("GITLAB_CI").map(|_| "");
        Ok(Self {
            output: args.output,
            files,
            start: Instant::now(),
            told: RefCell::new(Document { format: FORMAT, ..Document::default() }),
            table: RefCell::new(is_live.then(Table::default)),
            section: RefCell::new(section),
            quiet: false,
        })
    }

    /// Tells people on stderr, and nothing else to anybody.
    #[cfg(all(feature = "build", feature = "serve"))]
    pub fn quiet() -> Self {
        let table = std::io::stderr().is_terminal().then(Table::default);
        Self {
            output: OutputFormat::Text,
            files: [None, None],
            start: Instant::now(),
            told: RefCell::default(),
            table: RefCell::new(table),
            section: RefCell::new(None),
            quiet: true,
        }
    }

    /// What is going to be done.
    pub fn planned(&self, plans: &[Plan], images: &[Assignment]) {
        self.begin_section("lighter_plan", "plan");
        let mut told = self.told.borrow_mut();
        told.images = images.iter().map(|one| one.image.pinned().to_string()).collect();
        told.images.dedup();
        told.image = <[String; 1]>::try_from(told.images.clone()).ok().map(|[image]| image);
        for (number, plan) in plans.iter().enumerate() {
            if plans.len() > 1 {
                tell(&format!("wave {}:", number + 1));
            }
            tell(plan.to_string().trim_end());
            told.changed |= plan.changes_anything();
            told.findings.extend(plan.findings.iter().cloned());
            told.plan.extend(plan.actions.iter().map(|action| PlannedObject {
                object: action.object.clone(),
                change: action.change,
                images: action.images.clone(),
            }));
        }
    }

    /// What the checks before the first write found.
    pub fn found(&self, findings: &[Finding]) {
        findings.iter().for_each(|finding| tell(&finding.to_string()));
        self.told.borrow_mut().findings.extend(findings.iter().cloned());
    }

    /// Something happens.
    pub fn show(&self, event: &Event) {
        self.begin_section("lighter_rollout", "rollout");
        if self.output == OutputFormat::Ndjson {
            self.line(event);
        }
        match (self.table.borrow_mut().as_mut(), text(event)) {
            (Some(table), _) => table.show(event),
            (None, Some(text)) => tell(&text),
            (None, None) => {}
        }
    }

    /// How all targets ended.
    pub fn ended(&self, rollout: &Rollout) {
        if let Some(table) = self.table.borrow_mut().as_mut() {
            table.leave();
        }
        let mut told = self.told.borrow_mut();
        told.changed |= rollout.changed();
        told.targets = rollout.targets.clone();
    }

    /// What became of going back.
    pub fn undone(&self, undone: &Undone) {
        if let Some(table) = self.table.borrow_mut().as_mut() {
            table.leave();
        }
        self.told.borrow_mut().undone = undone.targets.clone();
    }

    /// What became of pausing what failed.
    pub fn held(&self, held: &[HeldTarget]) {
        self.told.borrow_mut().held = held.to_vec();
    }

    /// Writes everything down, and gives the outcome back.
    pub fn finish(&self, outcome: Outcome<()>) -> Outcome<()> {
        self.end_section();
        if self.quiet {
            return outcome;
        }
        let mut told = self.told.borrow_mut();
        told.seconds = self.start.elapsed().as_secs_f64();
        if let Err(failure) = &outcome {
            told.exit = failure.exit as u8;
            told.error = Some(failure.to_string());
        }
        match self.output {
            OutputFormat::Text => {
                if outcome.is_ok() {
                    told.images.iter().for_each(|image| out(image));
                }
            }
            OutputFormat::Json => out(&pretty(&told)),
            OutputFormat::Ndjson => self.line(&serde_json::json!({"event": "report", "report": &*told})),
        }
        let [json, junit] = &self.files;
        // What was done is not undone by a full disk; the first failure is the one that counts.
        let written = json.iter().map(|path| write_file(path, &pretty(&told)));
        let written = written.chain(junit.iter().map(|path| write_file(path, &junit_of(&told))));
        let written = written.collect::<Vec<_>>().into_iter().collect::<Outcome<Vec<()>>>();
        outcome.and(written.map(drop))
    }

    fn line(&self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(line) => out(&line),
            Err(error) => tracing::warn!(%error, "an event that is no JSON"),
        }
    }

    /// Folds the log of a GitLab job.
    fn begin_section(&self, name: &'static str, title: &str) {
        let before = *self.section.borrow();
        if before.is_none_or(|before| before == name) {
            return;
        }
        self.end_section();
        tell(&format!("\x1b[0Ksection_start:{}:{name}\r\x1b[0K{title}", now()));
        *self.section.borrow_mut() = Some(name);
    }

    fn end_section(&self) {
        let mut section = self.section.borrow_mut();
        if let Some(name) = section.filter(|name| !name.is_empty()) {
            tell(&format!("\x1b[0Ksection_end:{}:{name}\r\x1b[0K", now()));
            *section = Some("");
        }
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// One event as a line of a log; the verdicts are told at the end.
pub fn text(event: &Event) -> Option<String> {
    match event {
        Event::Progress { object, waiting } => Some(format!("{object}: {waiting}")),
        Event::Trouble { object, trouble } => Some(format!("{object}: {trouble}")),
        Event::Undoing { object, images } => {
            let lines = images.iter().map(|(container, image)| format!("{object}: going back to {container}: {image}"));
            Some(lines.collect::<Vec<_>>().join("\n"))
        }
        Event::Note { text } => Some(text.clone()),
        Event::Ended { .. } => None,
    }
}

fn pretty(document: &Document) -> String {
    serde_json::to_string_pretty(document).unwrap_or_else(|error| format!("{{\"error\": {:?}}}", error.to_string()))
}

fn write_file(path: &Path, text: &str) -> Outcome<()> {
    std::fs::write(path, text)
        .map_err(|error| Failure::io(format!("cannot write the report {}", path.display()), &error))
}

/// One test per target, or one for all if it did not come to that.
fn junit_of(document: &Document) -> String {
    let mut cases = String::new();
    let mut case = |name: &str, class: &str, failure: Option<String>| {
        let _ = write!(
            cases,
            "  <testcase name=\"{}\" classname=\"{}\" time=\"{:.3}\">",
            escaped(name),
            escaped(class),
            document.seconds
        ); // a string takes everything
        if let Some(failure) = failure {
            let first = failure.lines().next().unwrap_or_default();
            let _ = write!(cases, "<failure message=\"{}\">{}</failure>", escaped(first), escaped(&failure)); // as above
        }
        cases += "</testcase>\n";
    };
    for target in &document.targets {
        let object = &target.ticket.object;
        let failure = (!matches!(target.end, End::Done { .. })).then(|| target.end.to_string());
        case(&object.short(), object.namespace.as_deref().unwrap_or("cluster"), failure);
    }
    if document.targets.is_empty() {
        case("deploy", "lighter", document.error.clone());
    }
    let failures = cases.matches("<failure ").count();
    let tests = document.targets.len().max(1);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"lighter deploy\" tests=\"{tests}\" failures=\"{failures}\" time=\"{:.3}\">\n{cases}</testsuite>\n",
        document.seconds
    )
}

/// Text for XML: control characters, which it cannot hold, are left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' | '\t' => escaped.push(char),
            char if char.is_control() => {}
            char => escaped.push(char),
        }
    }
    escaped
}

/// The exit code of `lighter diff` when something would change.
pub const DIFFERS: Exit = Exit::Failed;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deploy_that_never_began_is_one_failed_test() {
        let document =
            Document { error: Some("error: no <cluster>\n\x1b[31m& more".into()), seconds: 1.5, ..Document::default() };
        let text = junit_of(&document);
        assert!(text.contains("tests=\"1\" failures=\"1\" time=\"1.500\""), "{text}");
        assert!(
            text.contains(
                "<failure message=\"error: no &lt;cluster&gt;\">error: no &lt;cluster&gt;\n[31m&amp; more</failure>"
            ),
            "{text}"
        );
        let well = junit_of(&Document::default());
        assert!(well.contains("failures=\"0\"") && !well.contains("<failure"), "{well}");
    }
}
