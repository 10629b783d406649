//! Running a CronJob once, now: a Job of its own from the template of the CronJob, as `kubectl create job --from` makes
//! one, so that a new image is seen to work before its hour comes.

use crate::cluster::Cluster;
use crate::error::Error;
use crate::object::{ObjectName, Resource};
use crate::plan::{Action, Change, ImageChange};
use crate::ticket::Ticket;
use crate::workload::text;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Longest part of the CronJob's name in that of the Job, which may have 63 bytes.
const NAME_PART: usize = 45;

pub(crate) fn is_cron_job(resource: &Resource) -> bool {
    resource.is("batch", &["CronJob"])
}

impl Cluster {
    /// Makes a Job from the template of the CronJob that a ticket is of, with the images that it has now; `None` for
    /// other kinds. Watch the ticket to see the Job do its work. The Job belongs to the CronJob: the CronJob's history
    /// limits count it, and it goes with it.
    ///
    /// # Errors
    ///
    /// Fails if the CronJob is another one meanwhile, or the server refuses.
    pub async fn run_once(&self, ticket: &Ticket) -> Result<Option<Ticket>, Error> {
        let cron_job = &ticket.object;
        if !is_cron_job(&cron_job.resource) {
            return Ok(None);
        }
        let live = self.api.get(cron_job).await?.filter(|live| live["metadata"]["uid"] == ticket.uid.as_str());
        let deleted = || Error::Changed { object: cron_job.clone().into(), message: "it was deleted".into() };
        let now = Timestamp::now();
        let body = job(cron_job, &live.ok_or_else(deleted)?, now);
        let namespace = cron_job.namespace.as_deref().unwrap_or_default();
        let name =
            ObjectName::new(Resource::new("batch", "v1", "Job", "jobs"), namespace, text(&body["metadata"]["name"]));
        let answer = match self.api.create(&name, &body, false).await {
            // Nobody else makes one of this name: if it is there, it is ours.
            Err(error) if error.is_lost_answer() => self.api.get(&name).await?.ok_or(error)?,
            answer => answer?,
        };
        let image = |(container, to): (&String, &String)| ImageChange {
            container: container.clone(),
            from: None,
            to: to.clone(),
            digests: ticket.want.get(container).cloned().unwrap_or_default(),
        };
        let action = Action::written(name, Change::Create, ticket.images.iter().map(image).collect());
        // Nothing of before was changed for it: there is nothing to go back to.
        Ok(Ticket::of(&action, &answer, false, now))
    }
}

fn job(cron_job: &ObjectName, live: &Value, now: Timestamp) -> Value {
    let template = &live["spec"]["jobTemplate"];
    let (whole, stamp) = (&cron_job.name, now.as_millisecond().rem_euclid(10_000_000_000));
    let part = whole.get(..NAME_PART).unwrap_or(whole).trim_end_matches(['-', '.']);
    let mut metadata = json!({
        "name": format!("{part}-once-{stamp:010}"),
        "namespace": cron_job.namespace,
        "labels": template["metadata"]["labels"],
        "annotations": template["metadata"]["annotations"],
        "ownerReferences": [{
            "apiVersion": cron_job.resource.api_version(), "kind": cron_job.resource.kind, "name": cron_job.name,
            "uid": live["metadata"]["uid"], "controller": true,
        }],
    });
    // What kubectl writes, and tools look for.
    metadata["annotations"]["cronjob.kubernetes.io/instantiate"] = json!("manual");
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_made_from_the_template() {
        let resource = Resource::new("batch", "v1beta1", "CronJob", "cronjobs");
        let long = "a-very-long-name-of-a-cron-job-that-has-fifty-two-b";
        let template = json!({"metadata": {"labels": {"app": "report"}}, "spec": {"backoffLimit": 1}});
        let live = json!({"metadata": {"uid": "u"}, "spec": {"schedule": "@daily", "jobTemplate": template}});
        for name in ["report", long] {
            let job = job(&ObjectName::new(resource.clone(), "demo", name), &live, Timestamp::from_second(7).unwrap());
            assert_eq!(
                (&job["spec"], &job["metadata"]["labels"]),
                (&template["spec"], &template["metadata"]["labels"])
            );
            assert_eq!(job["metadata"]["ownerReferences"][0]["apiVersion"], "batch/v1beta1");
            let made = text(&job["metadata"]["name"]);
            assert!(made.len() <= 63 && made.ends_with("-once-0000007000") && !made.contains("--"), "{made}");
        }
    }
}
