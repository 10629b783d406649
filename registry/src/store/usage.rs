//! How much there is: in a repository, and on the disk; and who has a blob.

use oci::{Digest, RepoName};

use super::{Store, StoreError, blocking};
use crate::state::Usage;

/// How many holders of a blob are looked at: enough to find one that the caller may read from.
const HOLDERS_LIMIT: usize = 1000;

impl Store {
    /// Looks at everything in a repository.
    pub(crate) async fn usage(&self, repo: &RepoName) -> Result<Usage, StoreError> {
        let (store, repo) = (self.clone(), repo.clone());
        blocking(move || {
            store
                .read(|view| Ok(if view.has_repo(&repo)? { Some(view.usage(&repo)?) } else { None }))?
                .ok_or(StoreError::NoRepository(repo))
        })
        .await?
    }

    /// A repository that holds a blob and that pleases; looks at no more than a thousand.
    pub(crate) async fn a_holder(
        &self,
        digest: Digest,
        pleases: impl Fn(&RepoName) -> bool,
    ) -> Result<Option<RepoName>, StoreError> {
        let store = self.clone();
        let holders = blocking(move || store.read(|view| view.some_holders(&digest, HOLDERS_LIMIT))).await??;
        Ok(holders.into_iter().find(pleases))
    }

    /// The last record of the journal that can be read.
    pub(crate) fn last_record(&self) -> u64 {
        self.inner.index.applied().0
    }

    /// How many bytes are free on the disk of the data directory, and how many it has.
    pub(crate) fn disk_space(&self) -> Option<(u64, u64)> {
        let disk = rustix::fs::statvfs(&self.inner.data).ok()?;
        Some((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
    }
}
