//! The second phase: the steps of one stage and its config, once the config of its base is known.

use std::time::Duration;

use oci::Platform;

use super::outline::{self, Base, Origin, Outline, StageId};
use super::scope::{self, Scope};
use super::{Action, CopySource, CopyStep, Error, Inline, Options, Problem, RunStep, Step, go, ports, transfer};
use crate::config::{DEFAULT_PATH, Empty, HealthConfig, History, ImageConfig};
use crate::dockerfile::expand::Style;
use crate::dockerfile::{
    Argument, Assignment, CommandLine, Dockerfile, Healthcheck, Instruction, Mount, MountKind, Node, Run, Security,
    Span,
};
use crate::ignore;

/// What a stage starts from, now that it is known.
#[derive(Debug, Clone, Copy)]
pub enum BaseState<'a> {
    /// Nothing: `FROM scratch`, or a named context that is only files.
    Scratch,
    /// An image.
    Image(&'a ImageConfig),
    /// An earlier stage, planned before.
    Stage(&'a StagePlan),
}

/// A stage, planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePlan {
    /// The config of the result: complete but for the new layers' diff IDs and the new times. Its new
    /// history entries that are not empty layers belong to `steps`, one by one.
    pub config: ImageConfig,
    /// The steps that make layers.
    pub steps: Vec<Step>,
    /// The variables that hold at the end, for stages built on this one.
    scope: Scope,
    /// The build arguments declared so far, likewise; their values where ENV has none.
    arguments: Vec<(String, String)>,
    /// The ARGs of this stage alone, in their order.
    pub declared: Vec<Declared>,
}

/// One name of an ARG inside a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Where it stands; a trigger stands at the FROM that pulls it.
    pub span: Span,
    /// The name.
    pub name: String,
    /// What it is worth.
    pub value: Option<String>,
    /// Whether that is the value of the ARG of that name before the first FROM, or of a platform argument.
    pub is_global: bool,
    /// Whether it is from ONBUILD.
    pub is_trigger: bool,
}

/// Plans one stage.
pub fn stage(
    file: &Dockerfile,
    outline: &Outline,
    options: &Options,
    id: StageId,
    base: BaseState<'_>,
) -> Result<StagePlan, Error> {
    let stage = &file.stages[id.0];
    let mut planner = Planner::start(file, outline, options, id, base);
    let outlined = outline.stage(id);
    if let Some(Base::Context(name)) = outlined.map(|stage| &stage.base) {
        planner.all_of(name, stage.span);
    }
    let is_replaced = outlined.is_some_and(|stage| stage.replaced);
    let triggers = std::mem::take(&mut planner.plan.config.run.on_build);
    for trigger in if is_replaced { Vec::new() } else { triggers } {
        let node = outline::read_trigger(&trigger, &file.source, stage.span)?;
        planner.title_prefix = "ONBUILD ";
        planner.instruction(&node).map_err(|problem| file.source.at(stage.span, problem))?;
    }
    planner.title_prefix = "";
    for node in if is_replaced { &[][..] } else { &stage.instructions } {
        planner.instruction(node).map_err(|problem| file.source.at(node.span, problem))?;
    }
    let mut plan = planner.plan;
    if id == outline.target {
        plan.config.run.labels.extend(options.labels.clone());
        if options.platform_is_explicit {
            plan.config.platform = explicit(&plan.config.platform, &options.target_platform);
        }
        plan.config.platform = plan.config.platform.normalised();
    }
    Ok(plan)
}

/// The platform of an image whose platform was asked for: what the base says of its variant and version
/// stays if it is for the same machine and nothing else was asked for.
fn explicit(base: &Platform, asked: &Platform) -> Platform {
    let same = base.os == asked.os && base.architecture == asked.architecture;
    let kept = |asked: &Option<String>, base: &Option<String>| {
        if asked.is_some() || !same { asked.clone() } else { base.clone() }
    };
    Platform {
        variant: kept(&asked.variant, &base.variant),
        os_version: kept(&asked.os_version, &base.os_version),
        ..asked.clone()
    }
}

/// Where planning a stage stands.
pub(super) struct Planner<'a> {
    pub(super) file: &'a Dockerfile,
    pub(super) options: &'a Options,
    pub(super) id: StageId,
    globals: &'a Scope,
    pub(super) plan: StagePlan,
    /// Whether this very stage has set CMD, so ENTRYPOINT leaves it alone.
    own_cmd: bool,
    title_prefix: &'static str,
}

impl<'a> Planner<'a> {
    fn start(
        file: &'a Dockerfile,
        outline: &'a Outline,
        options: &'a Options,
        id: StageId,
        base: BaseState<'_>,
    ) -> Self {
        let platform = match outline.stage(id).map(|stage| (&stage.base, &stage.platform)) {
            // An explicit scratch has the target's platform, whatever `--platform` its FROM names.
            Some((Base::Scratch, _)) | None => options.target_platform.clone(),
            Some((_, platform)) => platform.clone(),
        };
        let mut plan = match base {
            BaseState::Stage(plan) => StagePlan { steps: Vec::new(), declared: Vec::new(), ..plan.clone() },
            BaseState::Scratch => Self::fresh(ImageConfig::scratch(platform)),
            BaseState::Image(config) => Self::fresh(config.clone()),
        };
        plan.config.created = None;
        if plan.config.run.env("PATH").is_none() {
            plan.config.run.set_env("PATH", DEFAULT_PATH);
        }
        for entry in &plan.config.run.env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            plan.scope.set(name, value);
        }
        if !plan.config.run.working_dir.is_empty() {
            plan.config.run.working_dir = workdir("/", &plan.config.run.working_dir);
        }
        Self { file, options, id, globals: &outline.globals, plan, own_cmd: false, title_prefix: "" }
    }

    fn fresh(config: ImageConfig) -> StagePlan {
        StagePlan { config, steps: Vec::new(), scope: Scope::default(), arguments: Vec::new(), declared: Vec::new() }
    }

    pub(super) fn style(&self) -> Style {
        Style::new(self.file.escape)
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.plan.scope
    }

    pub(super) fn expand(&self, text: &str) -> Result<String, Problem> {
        self.plan.scope.expand(self.style(), text)
    }

    fn expand_all(&self, texts: &[String]) -> Result<Vec<String>, Problem> {
        texts.iter().map(|text| self.expand(text)).collect()
    }

    fn note(&mut self, created_by: String) {
        self.plan.config.history.push(History::new(created_by, false));
    }

    /// `FROM` a named context that is files: all of it is the first layer.
    fn all_of(&mut self, name: &str, span: Span) {
        let action = Action::Copy(CopyStep {
            add: false,
            from: Origin::Named(name.to_owned()),
            sources: vec![CopySource::Path(".".to_owned())],
            inline: Vec::new(),
            destination: "/".to_owned(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            excludes: Vec::new(),
            unpack: false,
        });
        // It has no entry in the history: one is made up for it when all layers are known, as BuildKit's exporter does.
        self.plan.steps.push(Step { span, title: format!("FROM {name}"), action });
    }

    /// Adds a step that makes a layer.
    pub(super) fn step(&mut self, created_by: String, span: Span, text: &str, action: Action) {
        self.plan.config.history.push(History::new(created_by, true));
        let style = match action {
            Action::Run(_) => Style { keep_quotes: true, keep_escapes: true, keep_unset: true, ..self.style() },
            Action::Copy(_) | Action::Workdir { .. } => self.style(),
        };
        let title = self.plan.scope.expand(style, text.trim()).unwrap_or_else(|_| text.trim().to_owned());
        let title = format!("{}{title}", self.title_prefix);
        self.plan.steps.push(Step { span, title, action });
    }

    fn instruction(&mut self, node: &Node<Instruction>) -> Result<(), Problem> {
        match &node.value {
            Instruction::Add(add) => self.add(node, add),
            Instruction::Arg(arguments) => self.argument(node.span, arguments),
            Instruction::Cmd(command) => {
                self.cmd(command);
                Ok(())
            }
            Instruction::Copy(copy) => self.copy(node, copy),
            Instruction::Entrypoint(command) => {
                self.entrypoint(command);
                Ok(())
            }
            Instruction::Env(assignments) => self.env(assignments),
            Instruction::Expose(words) => self.expose(words),
            Instruction::Healthcheck(check) => {
                self.healthcheck(check);
                Ok(())
            }
            Instruction::Label(assignments) => self.label(assignments),
            Instruction::Maintainer(author) => {
                self.plan.config.author = Some(author.clone());
                self.note(format!("MAINTAINER {author}"));
                Ok(())
            }
            Instruction::Onbuild(trigger) => {
                self.plan.config.run.on_build.push(trigger.clone());
                Ok(())
            }
            Instruction::Run(run) => self.run(node, run),
            Instruction::Shell(words) => {
                self.plan.config.run.shell.clone_from(words);
                self.note(format!("SHELL {}", go::list(words)));
                Ok(())
            }
            Instruction::Stopsignal(signal) => self.stop_signal(signal),
            Instruction::User(user) => {
                let user = self.expand(user)?;
                self.note(format!("USER {user}"));
                self.plan.config.run.user = user;
                Ok(())
            }
            Instruction::Volume(volumes) => self.volume(volumes),
            Instruction::Workdir(path) => self.workdir(node, path),
        }
    }

    /// ARG: a value from `--build-arg`, else the default, else the global one.
    fn argument(&mut self, span: Span, arguments: &[Argument]) -> Result<(), Problem> {
        let mut shown = Vec::new();
        for Argument { name, default } in arguments {
            let value = match (self.options.build_args.get(name), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expand(default)?),
                (None, None) => self.globals.value(name).map(str::to_owned),
            };
            shown.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            if let Some(value) = &value {
                self.plan.scope.set(name, value);
            }
            let is_global = value.is_some() && default.is_none() && !self.options.build_args.contains_key(name);
            let is_trigger = !self.title_prefix.is_empty();
            let declared = Declared { span, name: name.clone(), value: value.clone(), is_global, is_trigger };
            self.plan.declared.push(declared);
            self.plan.arguments.push((name.clone(), value.unwrap_or_default()));
        }
        self.note(format!("ARG {}", shown.join(" ")));
        Ok(())
    }

    /// The pairs expanded, all with the variables from before the instruction, and as history has them.
    fn pairs(&self, name: &str, assignments: &[Assignment]) -> Result<(Vec<(String, String)>, String), Problem> {
        let expand = |pair: &Assignment| Ok((self.expand(&pair.name)?, self.expand(&pair.value)?));
        let pairs = assignments.iter().map(expand).collect::<Result<Vec<_>, Problem>>()?;
        let shown: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok((pairs, format!("{name} {}", shown.join(" "))))
    }

    fn env(&mut self, assignments: &[Assignment]) -> Result<(), Problem> {
        let (pairs, created_by) = self.pairs("ENV", assignments)?;
        for (name, value) in pairs {
            self.plan.scope.set(&name, &value);
            self.plan.config.run.set_env(&name, &value);
        }
        self.note(created_by);
        Ok(())
    }

    fn label(&mut self, assignments: &[Assignment]) -> Result<(), Problem> {
        let (pairs, created_by) = self.pairs("LABEL", assignments)?;
        self.plan.config.run.labels.extend(pairs);
        self.note(created_by);
        Ok(())
    }

    fn cmd(&mut self, command: &CommandLine) {
        let words = self.with_shell(command);
        self.note(format!("CMD {}", go::quoted_list(&words)));
        self.plan.config.run.cmd = words;
        self.plan.config.run.args_escaped = true;
        self.own_cmd = true;
    }

    fn entrypoint(&mut self, command: &CommandLine) {
        let words = self.with_shell(command);
        self.note(format!("ENTRYPOINT {}", go::quoted_list(&words)));
        self.plan.config.run.entrypoint = words;
        if !self.own_cmd {
            self.plan.config.run.cmd.clear();
        }
    }

    /// The words as the kernel gets them: the shell form behind the shell.
    fn with_shell(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Exec(words) => words.clone(),
            CommandLine::Shell(text) => {
                let mut words = match self.plan.config.run.shell.as_slice() {
                    [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
                    shell => shell.to_vec(),
                };
                words.push(text.clone());
                words
            }
        }
    }

    fn expose(&mut self, words: &[String]) -> Result<(), Problem> {
        let mut found = Vec::new();
        for word in words {
            for word in self.plan.scope.expand_words(self.style(), word)? {
                found.extend(ports::parse(&word)?);
            }
        }
        self.note(format!("EXPOSE {}", go::list(&found)));
        self.plan.config.run.exposed_ports.extend(found.into_iter().map(|port| (port, Empty {})));
        Ok(())
    }

    fn healthcheck(&mut self, check: &Healthcheck) {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (health, times) = match check {
            Healthcheck::None => {
                let health = HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() };
                (health, [Duration::ZERO; 4])
            }
            Healthcheck::Probe(probe) => {
                let test = match &probe.command {
                    CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
                    CommandLine::Exec(words) => [&["CMD".to_owned()], words.as_slice()].concat(),
                };
                let times = [probe.interval, probe.timeout, probe.start_period, probe.start_interval];
                let health = HealthConfig {
                    test,
                    interval: nanoseconds(probe.interval),
                    timeout: nanoseconds(probe.timeout),
                    start_period: nanoseconds(probe.start_period),
                    start_interval: nanoseconds(probe.start_interval),
                    retries: u64::from(probe.retries),
                };
                (health, times)
            }
        };
        let [interval, timeout, start_period, start_interval] = times.map(go::duration);
        self.note(format!(
            "HEALTHCHECK {{Test:{} Interval:{interval} Timeout:{timeout} StartPeriod:{start_period} \
             StartInterval:{start_interval} Retries:{}}}",
            go::list(&health.test),
            health.retries
        ));
        self.plan.config.run.healthcheck = Some(health);
    }

    fn stop_signal(&mut self, signal: &str) -> Result<(), Problem> {
        let signal = self.expand(signal)?;
        if !is_signal(&signal) {
            return Err(Problem::Signal(signal));
        }
        self.note(format!("STOPSIGNAL {signal}"));
        self.plan.config.run.stop_signal = signal;
        Ok(())
    }

    fn volume(&mut self, volumes: &[String]) -> Result<(), Problem> {
        let volumes = self.expand_all(volumes)?;
        if volumes.iter().any(String::is_empty) {
            return Err(Problem::EmptyVolume);
        }
        self.note(format!("VOLUME {}", go::list(&volumes)));
        self.plan.config.run.volumes.extend(volumes.into_iter().map(|volume| (volume, Empty {})));
        Ok(())
    }

    fn workdir(&mut self, node: &Node<Instruction>, path: &str) -> Result<(), Problem> {
        let path = self.expand(path)?;
        let path = workdir(&self.plan.config.run.working_dir, &path);
        self.plan.config.run.working_dir.clone_from(&path);
        let created_by = format!("WORKDIR {path}");
        if path == "/" {
            self.note(created_by); // the root is always there
        } else {
            let user = self.plan.config.run.user.clone();
            let path = transfer::absolute("/", &path, false);
            self.step(created_by, node.span, &node.text, Action::Workdir { path, user });
        }
        Ok(())
    }

    fn run(&mut self, node: &Node<Instruction>, run: &Run) -> Result<(), Problem> {
        if run.security == Security::Insecure {
            return Err(Problem::Unsupported { what: "RUN --security=insecure".to_owned() });
        }
        if !run.devices.is_empty() {
            return Err(Problem::Unsupported { what: "RUN --device".to_owned() });
        }
        let (command, script) = with_heredocs(run)?;
        let arguments = self.with_shell(&command);
        let created_by = format!("RUN {} # buildkit", self.run_text(&arguments));
        let step = RunStep {
            arguments,
            env: self.plan.scope.pairs().to_vec(),
            proxy: scope::proxies(&self.options.build_args),
            cwd: match self.plan.config.run.working_dir.as_str() {
                "" => "/".to_owned(),
                path => transfer::absolute("/", path, false),
            },
            user: self.plan.config.run.user.clone(),
            script,
            mounts: self.mounts(run)?,
            network: run.network,
            hostname: self.magic("BUILDKIT_SANDBOX_HOSTNAME"),
        };
        self.step(created_by, node.span, &node.text, Action::Run(step));
        Ok(())
    }

    /// `|2 A=1 B= /bin/sh -c …`: the build arguments in the order of their declaration, then the words.
    fn run_text(&self, arguments: &[String]) -> String {
        let mut shown: Vec<(&str, &str)> = Vec::new();
        for (name, value) in &self.plan.arguments {
            let value = self.plan.scope.value(name).unwrap_or(value);
            match shown.iter_mut().find(|(known, _)| known == name) {
                Some(old) => old.1 = value,
                None => shown.push((name, value)),
            }
        }
        let mut words: Vec<String> = shown.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !words.is_empty() {
            words.insert(0, format!("|{}", words.len()));
        }
        words.extend_from_slice(arguments);
        words.join(" ")
    }

    /// A build argument with a meaning of its own, which needs no ARG.
    fn magic(&self, name: &str) -> Option<String> {
        self.options.build_args.get(name).filter(|value| !value.is_empty()).cloned()
    }

    fn mounts(&self, run: &Run) -> Result<Vec<(Mount, Option<outline::Origin>)>, Problem> {
        let mut mounts = Vec::new();
        for text in &run.mounts {
            let mut mount = Mount::parse::<Problem>(text, |value| self.expand(value))?;
            if mount.kind == MountKind::Cache
                && let Some(space) = self.magic("BUILDKIT_CACHE_MOUNT_NS")
            {
                let own = mount.id.take().filter(|id| !id.is_empty());
                let id = own.unwrap_or_else(|| ignore::clean(mount.target.as_deref().unwrap_or_default()).into_owned());
                mount.id = Some(format!("{space}/{id}"));
            }
            let target =
                transfer::absolute(&self.plan.config.run.working_dir, mount.target.as_deref().unwrap_or("."), false);
            if mount.target.is_some() && target == "/" {
                return Err(Problem::MountOverRoot);
            }
            let origin = match &mount.from {
                Some(name) => Some(outline::mount_origin(self.file, self.options, self.id, name)?),
                None => None,
            };
            mounts.push((mount, origin));
        }
        Ok(mounts)
    }
}

/// What WORKDIR means: an absolute path stays as it is written, to the last slash; a relative one is put
/// behind the directory before, and cleaned. Nothing, as a variable without a value, means where we are.
fn workdir(before: &str, path: &str) -> String {
    let before = if before.starts_with('/') { before.to_owned() } else { transfer::absolute("/", before, false) };
    match path {
        "" => before,
        path if path.starts_with('/') => path.to_owned(),
        path => transfer::absolute(&before, path, false),
    }
}

/// Puts heredocs where the shell expects them: a lone one is the script itself, one with a shebang
/// becomes a file that is run, several are written behind the command.
fn with_heredocs(run: &Run) -> Result<(CommandLine, Option<Inline>), Problem> {
    let (text, first) = match (&run.command, run.heredocs.first()) {
        (command, None) => return Ok((command.clone(), None)),
        (CommandLine::Exec(_), Some(_)) => return Err(Problem::HeredocRun),
        (CommandLine::Shell(text), Some(first)) => (text, first),
    };
    if !run.is_lone_heredoc() {
        let mut whole = text.clone();
        for heredoc in &run.heredocs {
            whole.push_str(&format!("\n{}{}", heredoc.body, heredoc.name));
        }
        return Ok((CommandLine::Shell(whole), None));
    }
    let script = first.text();
    if !script.starts_with("#!") {
        return Ok((CommandLine::Shell(script), None));
    }
    let inline = Inline { name: first.name.clone(), text: script };
    Ok((CommandLine::Shell(format!("/dev/pipes/{}", first.name)), Some(inline)))
}

/// A signal's number or name, with or without `SIG`.
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 36] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
        "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
        "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
    ];
    // Any number but zero, as in BuildKit; what it means is the runtime's business.
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |prefix: &str| {
        name.strip_prefix(prefix).and_then(|offset| offset.parse::<u8>().ok()).is_some_and(|offset| offset <= 15)
    };
    NAMES.contains(&name) || realtime("RTMIN+") || realtime("RTMAX-")
}
