//! What the authors of the specification check.

use fixtures::conformance;
use registry::Settings;

use crate::client::Registry;

/// Fewer checks than this mean that something was left out without being counted.
const CHECKS: u32 = 1028;

#[tokio::test(flavor = "multi_thread")]
async fn the_official_conformance_program_finds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
    settings.keeping.sparse = registry::keeping::Sparse::Everywhere(true);
    let registry = Registry::start_with(dir, settings).await;
    let address = registry.http.addr;
    for version in ["1.1", "dev"] {
        let report = tokio::task::spawn_blocking(move || conformance::run(address, version)).await.unwrap();
        assert_eq!((report.failed, report.skipped), (0, 0), "version {version}:\n{}", report.complaints);
        assert!(report.passed >= CHECKS, "version {version}: only {} checks were made", report.passed);
    }
}
