//! Retention in the store: reads what is known of each tag, has it judged (`keeping`), and deletes.

use jiff::Timestamp;
use oci::{Digest, RepoName, Tag};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::keeping::{Candidate, Verdict, judge};
use crate::state::Transaction;

/// Repositories are read in pages of this many.
const PAGE: usize = 1_000;

/// A tag, whether it stays, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedTag {
    /// The repository.
    pub repo: RepoName,
    /// The tag.
    pub tag: Tag,
    /// What it names.
    pub digest: Digest,
    /// Whether it stays.
    pub keeps: bool,
    /// Why, in words.
    pub reason: String,
}

impl Store {
    /// Judges the tags of all repositories that a rule is about and, unless it is a dry run, deletes
    /// those that no rule keeps. Blocks, so it is for threads that may.
    pub fn retain(&self, dry_run: bool) -> Result<Vec<JudgedTag>, StoreError> {
        let (mut judged, mut after, now) = (Vec::new(), String::new(), Timestamp::now());
        self.flush_pulls()?;
        loop {
            let repos = self.read(|view| view.repos(&after, PAGE))?;
            let Some(last) = repos.last() else { return Ok(judged) };
            after = last.to_string();
            for repo in &repos {
                judged.extend(self.retain_in(repo, now, dry_run)?);
            }
        }
    }

    fn retain_in(&self, repo: &RepoName, now: Timestamp, dry_run: bool) -> Result<Vec<JudgedTag>, StoreError> {
        let retention = &self.keeping.retention;
        if !retention.rules.iter().any(|rule| rule.repository.matches(repo)) {
            return Ok(Vec::new());
        }
        let candidates = self.candidates(repo)?;
        let Some(verdicts) = judge(retention, repo, &candidates, now) else { return Ok(Vec::new()) };
        let mut judged = Vec::with_capacity(candidates.len());
        for (Candidate { tag, digest, .. }, verdict) in candidates.into_iter().zip(verdicts) {
            let keeps = verdict != Verdict::Expired;
            if !keeps && !dry_run {
                let expire = Transaction::ExpireTag { repo: repo.clone(), tag: tag.clone(), digest };
                match self.inner.committer.commit_blocking(expire) {
                    Ok(()) => tracing::info!(repository = %repo, %tag, %digest, "tag deleted: no rule keeps it"),
                    // Somebody moved or deleted it since it was judged.
                    Err(error) if error.is_missing() => continue,
                    Err(error) => return Err(error),
                }
            }
            judged.push(JudgedTag { repo: repo.clone(), tag, digest, keeps, reason: verdict.to_string() });
        }
        Ok(judged)
    }

    fn candidates(&self, repo: &RepoName) -> Result<Vec<Candidate>, StoreError> {
        self.read(|view| {
            let mut candidates = Vec::new();
            for tag in view.tags(repo, "", usize::MAX)? {
                if let Some(row) = view.tag(repo, &tag)? {
                    let pulled_at = view.pulled_at(repo, &row.digest)?;
                    candidates.push(Candidate { tag, digest: row.digest, set_at: row.set_at, pulled_at });
                }
            }
            Ok(candidates)
        })
    }
}
