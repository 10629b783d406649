//! diff: what a deploy would change. Nothing is written; the exit code says whether there is a difference.

use super::deploy;
use super::deploy_report::DIFFERS;
use crate::args::{DiffArgs, OutputFormat};
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::terminal::{out, tell};

pub async fn diff(args: &DiffArgs) -> Outcome<()> {
    let diffs = interrupt::until_signal(async {
        let planned = deploy::plan(&args.subject, &args.how, &args.cluster, &args.registry, true).await?;
        for finding in planned.plans.iter().flat_map(|plan| &plan.findings) {
            tell(&finding.to_string());
        }
        deploy::diffs(&planned).await
    })
    .await?;
    let line = |value: Result<String, serde_json::Error>| match value {
        Ok(text) => out(&text),
        Err(error) => tell(&format!("a difference cannot be printed: {error}")),
    };
    match args.output {
        OutputFormat::Text => diffs.iter().for_each(|diff| out(&diff.to_string())),
        OutputFormat::Json => line(serde_json::to_string_pretty(&diffs)),
        OutputFormat::Ndjson => diffs.iter().for_each(|diff| line(serde_json::to_string(diff))),
    }
    match diffs.len() {
        0 => Ok(()),
        1 => Err(Failure::new(DIFFERS, "one object would change")),
        many => Err(Failure::new(DIFFERS, format!("{many} objects would change"))),
    }
}
