//! What every [`Source`] and [`Sink`] promises, as one suite of checks to run over each of them.
//!
//! Call [`check`] from a test with a fresh, empty repository. It panics where a promise is broken.

use std::future::Future;
use std::pin::Pin;

use oci::{Descriptor, Digest, Manifest, Selector, Tag, media_type};

use crate::store::{Body, OpenBlob, Sink, Source, body_of, collect};
use crate::{CopyOptions, Error, Memory, Result, copy};

/// Runs the whole contract on an empty repository.
pub async fn check<R: Source + Sink>(repository: &R) {
    answers_that_nothing_is_there(repository).await;
    keeps_blobs_under_their_digest(repository).await;
    refuses_content_that_is_not_what_it_claims(repository).await;
    refuses_a_manifest_before_its_blobs(repository).await;
    keeps_manifests_to_the_byte(repository).await;
    moves_tags(repository).await;
    keeps_indexes(repository).await;
    copies_both_ways(repository).await;
}

/// A blob that is at hand.
struct InHand(Vec<u8>);

impl OpenBlob for InHand {
    fn open(&self, from: u64) -> Pin<Box<dyn Future<Output = Result<Body>> + Send + '_>> {
        let rest = self.0[usize::try_from(from).expect("a test blob is small")..].to_vec();
        Box::pin(std::future::ready(Ok(body_of(rest))))
    }
}

fn describe(content: &[u8]) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER, Digest::of(content), content.len() as u64)
}

fn image(config: &Descriptor, layers: &[Descriptor]) -> Manifest {
    let document = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers,
    });
    // Odd white space: the bytes must survive, not only their meaning.
    let text = format!(" {}\n\n", serde_json::to_string_pretty(&document).expect("a document is JSON"));
    Manifest::parse(None, text.into_bytes()).expect("the suite writes good manifests")
}

async fn put(repository: &impl Sink, content: &[u8]) -> Descriptor {
    let descriptor = describe(content);
    let verified = repository.put_blob(&descriptor, &InHand(content.to_vec())).await.expect("a blob is taken");
    assert_eq!((verified.digest(), verified.size()), (descriptor.digest, descriptor.size));
    descriptor
}

async fn answers_that_nothing_is_there<R: Source + Sink>(repository: &R) {
    let nothing = describe(b"nothing of this kind");
    assert!(!repository.has_blob(nothing.digest).await.expect("absence is an answer"));
    assert!(!repository.has_manifest(nothing.digest).await.expect("absence is an answer"));
    let by_tag = repository.manifest(&Selector::Tag(tag("absent"))).await.expect_err("there is no such tag");
    let by_digest =
        repository.manifest(&Selector::Digest(nothing.digest)).await.expect_err("there is no such manifest");
    assert!(by_tag.is_missing() && by_digest.is_missing(), "{by_tag} / {by_digest}");
    let blob = match repository.blob(&nothing, 0).await {
        Ok(_) => panic!("a blob that is not there was opened"),
        Err(error) => error,
    };
    assert!(blob.is_missing(), "{blob}");
}

async fn keeps_blobs_under_their_digest<R: Source + Sink>(repository: &R) {
    for content in [&b""[..], b"{}", &vec![7; 3 << 20]] {
        let descriptor = put(repository, content).await;
        assert!(repository.has_blob(descriptor.digest).await.expect("presence is an answer"));
        put(repository, content).await; // the same again is no mistake
        for from in [0, content.len() / 2] {
            let body = repository.blob(&descriptor, from as u64).await.expect("the blob is there");
            let read = collect(body, 4 << 20).await.expect("the blob can be read");
            assert_eq!(read.as_deref(), Some(&content[from..]), "from {from}");
        }
    }
}

async fn refuses_content_that_is_not_what_it_claims<R: Source + Sink>(repository: &R) {
    let claimed = describe(b"what was promised");
    let refused = repository.put_blob(&claimed, &InHand(b"what was deliver'".to_vec())).await;
    assert!(refused.is_err(), "wrong content was taken");
    assert!(!repository.has_blob(claimed.digest).await.expect("absence is an answer"), "wrong content is visible");
}

async fn refuses_a_manifest_before_its_blobs<R: Source + Sink>(repository: &R) {
    let config = put(repository, b"{\"lonely\":true}").await;
    let manifest = image(&config, &[describe(b"a layer that nobody sent")]);
    assert!(repository.put_manifest(&manifest, Some(&tag("early"))).await.is_err(), "a manifest came before its blobs");
    let missing = repository.manifest(&Selector::Tag(tag("early"))).await.expect_err("a failed push shows nothing");
    assert!(missing.is_missing(), "{missing}");
}

async fn keeps_manifests_to_the_byte<R: Source + Sink>(repository: &R) {
    let manifest = put_image(repository, "one", "exact").await;
    for which in [Selector::Digest(manifest.digest()), Selector::Tag(tag("exact"))] {
        let read = repository.manifest(&which).await.expect("the manifest is there");
        assert_eq!(read.bytes(), manifest.bytes());
        assert_eq!(read.media_type(), media_type::OCI_MANIFEST);
    }
    assert!(repository.has_manifest(manifest.digest()).await.expect("presence is an answer"));
}

async fn moves_tags<R: Source + Sink>(repository: &R) {
    let old = put_image(repository, "old", "moving").await;
    let new = put_image(repository, "new", "moving").await;
    let by_tag = repository.manifest(&Selector::Tag(tag("moving"))).await.expect("the tag is there");
    assert_eq!(by_tag.digest(), new.digest());
    repository.manifest(&Selector::Digest(old.digest())).await.expect("the old image can still be had by digest");
}

async fn keeps_indexes<R: Source + Sink>(repository: &R) {
    let child = put_image(repository, "child", "child").await;
    let index = |manifests: &[Descriptor]| {
        let document =
            serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests});
        Manifest::parse(None, document.to_string().into_bytes()).expect("the suite writes good indexes")
    };
    let mut absent = child.descriptor();
    absent.digest = Digest::of(b"an image that nobody sent");
    let early = index(&[absent]);
    assert!(repository.put_manifest(&early, Some(&tag("early"))).await.is_err(), "an index came before its images");
    let good = index(&[child.descriptor()]);
    repository.put_manifest(&good, Some(&tag("index"))).await.expect("an index is taken");
    let read = repository.manifest(&Selector::Tag(tag("index"))).await.expect("the index is there");
    assert_eq!(read.bytes(), good.bytes());
}

async fn copies_both_ways<R: Source + Sink>(repository: &R) {
    let memory = Memory::new();
    let manifest = put_image(&memory, "copied", "copied").await;
    let selector = Selector::Tag(tag("copied"));
    let options = CopyOptions::default();
    let first = copy(&memory, &selector, repository, &[tag("copied")], &options, &|_| {}).await.expect("copy in");
    assert_eq!((first.digest, first.sent.0, first.unchanged), (Some(manifest.digest()), 2, false));
    let again = copy(&memory, &selector, repository, &[tag("copied")], &options, &|_| {}).await.expect("copy again");
    assert_eq!((again.sent.0, again.present.0, again.unchanged), (0, 2, true));
    let back = Memory::new();
    copy(repository, &selector, &back, &[tag("back")], &options, &|_| {}).await.expect("copy out");
    assert_eq!(back.manifest(&Selector::Tag(tag("back"))).await.expect("it came back").bytes(), manifest.bytes());
    let broken = copy(&Memory::new(), &selector, repository, &[], &options, &|_| {}).await;
    assert!(matches!(broken, Err(Error::NoManifest { .. })));
}

async fn put_image(repository: &impl Sink, text: &str, name: &str) -> Manifest {
    let config = put(repository, format!("{{\"text\":\"{text}\"}}").as_bytes()).await;
    let layer = put(repository, format!("layer of {text}").as_bytes()).await;
    let manifest = image(&config, &[layer]);
    repository.put_manifest(&manifest, Some(&tag(name))).await.expect("a manifest is taken");
    manifest
}

fn tag(text: &str) -> Tag {
    text.parse().expect("the suite writes good tags")
}
