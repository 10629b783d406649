//! What can be typed for a build beside the Dockerfile and its context: what the image carries and how it
//! is written, and the flags that scripts of docker and kaniko have in them.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args};

/// What the image carries, and how it is written.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// A label of the image [repeatable]
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,

    /// An annotation of the manifest, or with the prefix index: of an index [repeatable]
    #[arg(long, value_name = "[manifest:|index:|manifest-descriptor:]KEY=VALUE")]
    pub annotation: Vec<String>,

    /// How layers are compressed [default: gzip]
    #[arg(long, value_name = "gzip|zstd|none[,LEVEL]")]
    pub compression: Option<String>,

    /// The level, if it does not stand behind the method: gzip 1 to 12, zstd 1 to 22
    #[arg(long, value_name = "LEVEL", hide = true)]
    pub compression_level: Option<u8>,

    /// Compress the layers of base images as well
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub force_compression: bool,

    /// Write LIGHTER_IMAGE and LIGHTER_DIGEST to a file, as GitLab's artifacts:reports:dotenv wants it
    #[arg(long, value_name = "FILE")]
    pub dotenv: Option<PathBuf>,

    /// Write the manifest's digest to a file
    #[arg(long, value_name = "FILE")]
    pub digest_file: Option<PathBuf>,
}

/// What stands in scripts for `docker build` and `docker buildx build`. `command::docker` says what becomes of it.
#[derive(Debug, Args)]
pub struct DockerArgs {
    /// Do the steps of these stages anew
    #[arg(long, value_name = "STAGE,…", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// The image is in the local store in any case
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub load: Option<bool>,
    /// Nothing is left of a step in any case
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub rm: Option<bool>,
    /// Nothing is left of a step in any case
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub force_rm: Option<bool>,
    /// The context is never sent anywhere
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub compress: Option<bool>,
    /// Digests are always checked
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub disable_content_trust: Option<bool>,
    /// There is one builder: this program
    #[arg(long, hide = true, value_name = "NAME")]
    pub builder: Option<String>,
    /// Entitlements: network.host needs none here, the others are not given
    #[arg(long, hide = true, value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Attestations are not made
    #[arg(long, hide = true, value_name = "BOOL|mode=…")]
    pub provenance: Option<String>,
    /// Attestations are not made
    #[arg(long, hide = true, value_name = "BOOL|generator=…")]
    pub sbom: Option<String>,
    /// Attestations are not made
    #[arg(long, hide = true, value_name = "type=…")]
    pub attest: Vec<String>,
    /// Refused: a last stage with COPY --from does it
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub squash: Option<bool>,
    /// Refused: steps have no control group of their own
    #[arg(long, hide = true, value_name = "GROUP")]
    pub cgroup_parent: Option<String>,
    /// Refused: steps have no control group of their own
    #[arg(short, long, hide = true, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Refused: steps have no control group of their own
    #[arg(long, hide = true, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Refused: steps have no control group of their own
    #[arg(long, hide = true, value_name = "SHARES", short = 'c', alias = "cpu-quota", alias = "cpu-period")]
    pub cpu_shares: Option<String>,
    /// Refused: steps have no control group of their own
    #[arg(long, hide = true, value_name = "CPUS", alias = "cpuset-mems")]
    pub cpuset_cpus: Option<String>,
    /// Refused: the profile of steps is fixed
    #[arg(long, hide = true, value_name = "OPTION")]
    pub security_opt: Vec<String>,
}

/// buildah's and podman's names, where they are not docker's. `command::buildah` says what becomes of them.
#[derive(Debug, Args)]
pub struct BuildahArgs {
    /// Every step is a layer in any case
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub layers: Option<bool>,
    /// oci, as it is; docker is -o type=image,oci-mediatypes=false
    #[arg(long, hide = true, value_name = "oci|docker")]
    pub format: Option<ImageFormat>,
    /// --build-arg SOURCE_DATE_EPOCH
    #[arg(long, hide = true, value_name = "SECONDS", alias = "source-date-epoch")]
    pub timestamp: Option<u64>,
    /// --tag
    #[arg(long, hide = true, value_name = "NAME")]
    pub manifest: Option<String>,
    /// --pull
    #[arg(long, hide = true)]
    pub pull_always: bool,
    /// Refused: certificates are always checked
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub tls_verify: Option<bool>,
    /// Refused: passwords on command lines are seen by everybody
    #[arg(long, hide = true, value_name = "USER:PASSWORD")]
    pub creds: Option<String>,
    /// Refused: a last stage with COPY --from does it
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub squash_all: Option<bool>,
    /// Refused: RUN --mount brings files in
    #[arg(long, hide = true, value_name = "HOST:CONTAINER")]
    pub volume: Vec<String>,
    /// Refused: steps have no devices of this machine
    #[arg(long, hide = true, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// Refused: the rights of steps are fixed
    #[arg(long, hide = true, value_name = "CAPABILITY", alias = "cap-drop")]
    pub cap_add: Vec<String>,
    /// Refused: the rights of steps are fixed
    #[arg(long, hide = true, value_name = "HOW", alias = "userns-uid-map", alias = "userns-gid-map")]
    pub userns: Vec<String>,
}

/// What the documents of an image are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ImageFormat {
    Oci,
    Docker,
}

/// Reads `--pull`: as docker has it, true or false; as podman has it, when the registry is asked.
pub fn pull(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "always" | "newer" | "ifnewer" => Ok(true),
        "false" | "0" | "missing" | "ifmissing" => Ok(false),
        "never" => {
            Err("the registry is asked for what the local store lacks; --registry-map can lead elsewhere".into())
        }
        _ => Err("use true, false, always, newer or missing".into()),
    }
}

/// kaniko's names, where they are not docker's. `command::kaniko` says what becomes of them.
#[derive(Debug, Args)]
pub struct KanikoArgs {
    /// --tag, and --push unless --no-push says otherwise
    #[arg(short, long, hide = true, value_name = "NAME")]
    pub destination: Vec<String>,
    /// --file; also looked for in the context
    #[arg(long, hide = true, value_name = "FILE")]
    pub dockerfile: Option<PathBuf>,
    /// The context: a directory, dir://, tar://, git:// or -
    #[arg(long = "context", hide = true, value_name = "CONTEXT")]
    pub kaniko_context: Option<String>,
    /// A directory in the context that is the context
    #[arg(long, hide = true, value_name = "DIR")]
    pub context_sub_path: Option<String>,
    /// Push nothing, whatever --destination says
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub no_push: Option<bool>,
    /// Write each destination, pinned, to a file
    #[arg(long, hide = true, value_name = "FILE")]
    pub image_name_with_digest_file: Option<PathBuf>,
    /// Write each destination with its tag, pinned, to a file
    #[arg(long, hide = true, value_name = "FILE")]
    pub image_name_tag_with_digest_file: Option<PathBuf>,
    /// --output type=docker,dest=FILE
    #[arg(long, alias = "tarPath", hide = true, value_name = "FILE")]
    pub tar_path: Option<PathBuf>,
    /// --output type=oci,tar=false,dest=DIR
    #[arg(long, hide = true, value_name = "DIR")]
    pub oci_layout_path: Option<PathBuf>,
    /// --platform
    #[arg(long, alias = "customPlatform", hide = true, value_name = "PLATFORM")]
    pub custom_platform: Option<oci::Platform>,
    /// --insecure-registry for the registries of --destination
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub insecure: Option<bool>,
    /// Refused: it names no registry
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub insecure_pull: Option<bool>,
    /// Refused: certificates are always checked
    #[arg(long, alias = "skip-tls-verify-pull", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub skip_tls_verify: Option<bool>,
    /// Refused: certificates are always checked
    #[arg(long, hide = true, value_name = "HOST")]
    pub skip_tls_verify_registry: Vec<String>,
    /// --registry-ca FILE
    #[arg(long, hide = true, value_name = "HOST=FILE", value_delimiter = ',')]
    pub registry_certificate: Vec<String>,
    /// --registry-map docker.io=HOST
    #[arg(long, hide = true, value_name = "HOST", value_delimiter = ',')]
    pub registry_mirror: Vec<String>,
    /// SOURCE_DATE_EPOCH=0, unless another one is given
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub reproducible: Option<bool>,
    /// Refused: a last stage with COPY --from does it
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub single_snapshot: Option<bool>,
    /// Refused: everything that a step changes is in its layer
    #[arg(long, hide = true, value_name = "PATH")]
    pub ignore_path: Vec<String>,
    /// Refused: what to fetch is said in the address
    #[arg(long, hide = true, value_name = "branch=…")]
    pub git: Option<String>,
    /// Changes are read from the step's own directory, never looked for
    #[arg(long, alias = "snapshotMode", hide = true, value_name = "MODE")]
    pub snapshot_mode: Option<String>,
    /// The builder's own file system is never touched
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub cleanup: Option<bool>,
    /// The builder's own file system is never touched
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub force: Option<bool>,
    /// Changes are read from the step's own directory, never looked for
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub use_new_run: Option<bool>,
    /// The builder's own file system is never touched
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub ignore_var_run: Option<bool>,
    /// Stages that the target does not need are never built
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub skip_unused_stages: Option<bool>,
    /// There is no such check
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub skip_push_permission_check: Option<bool>,
    /// A mapped registry has no other one behind it
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub skip_default_registry_fallback: Option<bool>,
    /// Layers are never held in memory
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub compressed_caching: Option<bool>,
    /// Metadata is always written
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub force_build_metadata: Option<bool>,
    /// Passing faults are tried again in any case
    #[arg(long, alias = "image-fs-extract-retry", alias = "image-download-retry", hide = true, value_name = "TIMES")]
    pub push_retry: Option<u32>,
    /// -v
    #[arg(long, hide = true, value_name = "LEVEL")]
    pub verbosity: Option<String>,
    /// --progress
    #[arg(long, hide = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// --progress
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub log_timestamp: Option<bool>,
    /// --data
    #[arg(long, hide = true, value_name = "DIR")]
    pub kaniko_dir: Option<PathBuf>,
}

/// What is done with a Dockerfile, and how it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// What is asked.
    pub method: Method,
    /// How the answer is written.
    pub format: Format,
    /// Whether findings are no failure.
    pub ignore_status: bool,
}

/// What is asked of a Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// An image.
    Build,
    /// What is probably not meant.
    Check,
    /// What the target can be given.
    Outline,
    /// Which stages there are.
    Targets,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// BuildKit's documents.
    Json,
}

impl Call {
    /// What `--check` is short for.
    pub const CHECK: Self = Self { method: Method::Check, format: Format::Text, ignore_status: false };
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut method, mut call) = (None, Self { method: Method::Build, ..Self::CHECK });
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("format", "text")) => call.format = Format::Text,
                Some(("format", "json")) => call.format = Format::Json,
                Some(("format", other)) => return Err(format!("format={other}: the formats are text and json")),
                Some(("ignorestatus", value)) => call.ignore_status = truth(value)?,
                Some((other, _)) => return Err(format!("`{other}` is not known; there are format and ignorestatus")),
                None if method.is_none() => method = Some(Method::from_str(field)?),
                None => return Err(format!("{field:?} is a second method")),
            }
        }
        Ok(Self { method: method.ok_or("no method; the methods are build, check, outline and targets")?, ..call })
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "build" => Self::Build,
            "check" | "lint" => Self::Check,
            "outline" => Self::Outline,
            "targets" => Self::Targets,
            other => return Err(format!("{other:?} is no method; they are build, check, outline and targets")),
        })
    }
}

/// The words that Go takes for true and false.
fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        other => Err(format!("ignorestatus={other}: it is true or false")),
    }
}
