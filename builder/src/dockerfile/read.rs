//! The instructions, one by one: from a logical line to what it says.

use super::error::{Failure, Problem, Warning};
use super::flags::{Flags, Kind};
use super::heredoc::{self, Heredoc};
use super::instruction::{
    Add, Argument, Assignment, CommandLine, Copy, Healthcheck, Instruction, Network, Probe, Run, Security, Transfer,
};
use super::lines::Line;
use super::{Stage, duration, mount, nearest, words};

const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads a FROM.
pub(super) fn parse_from(line: &Line, escape: char) -> Result<Stage, Failure> {
    let (_, rest) = words::split_name(&line.text);
    let (flags, rest) = words::split_flags(rest, escape);
    let flags = Flags::parse("FROM", flags, &[("platform", Kind::Value)])?;
    let words = words::split_blanks(rest);
    let (base, name) = match words.as_slice() {
        [base] => (base, None),
        [base, keyword, name] if keyword.eq_ignore_ascii_case("as") => (base, Some(stage_name(name)?)),
        _ => return Err(Problem::FromArguments.into()),
    };
    Ok(Stage {
        span: line.span,
        text: line.text.trim().to_owned(),
        base: base.clone(),
        platform: flags.value("platform").filter(|platform| !platform.is_empty()),
        name,
        instructions: Vec::new(),
    })
}

fn stage_name(name: &str) -> Result<String, Problem> {
    let lower = name.to_lowercase();
    let mut characters = lower.chars();
    let good = characters.next().is_some_and(|first| first.is_ascii_lowercase())
        && characters.all(|next| next.is_ascii_lowercase() || next.is_ascii_digit() || "-_.".contains(next));
    if good { Ok(lower) } else { Err(Problem::StageName(name.to_owned())) }
}

/// Reads any instruction but FROM.
pub(super) fn parse(line: &Line, escape: char, warnings: &mut Vec<Warning>) -> Result<Instruction, Failure> {
    let (instruction, legacy) = read(&line.text, &line.heredocs, escape)?;
    let mut warn = |rule, message: &str| warnings.push(Warning::new(rule, line.span, message.to_owned()));
    if legacy {
        warn("LegacyKeyValueFormat", "\"name=value\" should be used instead of the form \"name value\"");
    }
    if let Instruction::Maintainer(_) = instruction {
        warn("MaintainerDeprecated", "MAINTAINER is deprecated in favour of LABEL org.opencontainers.image.authors");
    }
    Ok(instruction)
}

/// Reads the text of an ONBUILD trigger.
pub(super) fn parse_trigger(line: &Line, escape: char) -> Result<Instruction, Failure> {
    let (name, _) = words::split_name(&line.text);
    check_trigger(name)?;
    read(&line.text, &line.heredocs, escape).map(|(instruction, _)| instruction)
}

/// The instruction, and whether it is in the old `ENV name value` form.
fn read(text: &str, heredocs: &[Heredoc], escape: char) -> Result<(Instruction, bool), Failure> {
    let (name, rest) = words::split_name(text);
    let upper = name.to_ascii_uppercase();
    let Some(known) = NAMES.iter().find(|known| **known == upper) else {
        let hint = nearest(name, NAMES).map(|meant| format!("did you mean {meant}?"));
        return Err(Failure { problem: Problem::UnknownInstruction(name.to_owned()), hint });
    };
    let (flags, arguments) = words::split_flags(rest, escape);
    let arguments = arguments.trim();
    let input = Input { name: known, flags, arguments, heredocs, escape };
    let mut legacy = false;
    let instruction = match *known {
        "ADD" => input.add()?,
        "ARG" => Instruction::Arg(input.arguments()?),
        "CMD" => Instruction::Cmd(input.plain()?.command()?),
        "COPY" => input.copy()?,
        "ENTRYPOINT" => Instruction::Entrypoint(input.plain()?.command()?),
        "ENV" => Instruction::Env(input.plain()?.assignments(&mut legacy)?),
        "EXPOSE" => Instruction::Expose(input.plain()?.ports()?),
        "HEALTHCHECK" => Instruction::Healthcheck(input.healthcheck()?),
        "LABEL" => Instruction::Label(input.plain()?.assignments(&mut legacy)?),
        "MAINTAINER" => Instruction::Maintainer(input.plain()?.one()?),
        "ONBUILD" => Instruction::Onbuild(onbuild(text, heredocs, escape)?),
        "RUN" => Instruction::Run(input.run()?),
        "SHELL" => Instruction::Shell(input.plain()?.shell()?),
        "STOPSIGNAL" => Instruction::Stopsignal(input.one()?),
        "USER" => Instruction::User(input.plain()?.one()?),
        "VOLUME" => Instruction::Volume(input.plain()?.volumes()?),
        "WORKDIR" => Instruction::Workdir(input.plain()?.one()?),
        _ => return Err(Problem::OnbuildTrigger("FROM").into()), // a FROM of the file itself is read elsewhere
    };
    Ok((instruction, legacy))
}

/// One instruction, taken apart as far as all have it in common.
struct Input<'a> {
    name: &'static str,
    flags: Vec<String>,
    arguments: &'a str,
    heredocs: &'a [Heredoc],
    escape: char,
}

impl Input<'_> {
    /// For instructions without flags: refuses all. ARG and STOPSIGNAL do not look at them, as BuildKit's do not.
    fn plain(self) -> Result<Self, Failure> {
        Flags::parse(self.name, self.flags.clone(), &[])?;
        Ok(self)
    }

    fn json(&self) -> Result<Option<Vec<String>>, Problem> {
        words::json_array(self.arguments).transpose().map_err(|_| Problem::NotStrings(self.name))
    }

    /// One text to the end of the line.
    fn one(&self) -> Result<String, Problem> {
        match self.arguments {
            "" => Err(Problem::ExactlyOne(self.name)),
            text => Ok(text.to_owned()),
        }
    }

    fn list(&self) -> Result<Vec<String>, Problem> {
        Ok(self.json()?.unwrap_or_else(|| words::split_blanks(self.arguments)))
    }

    fn command(&self) -> Result<CommandLine, Problem> {
        Ok(match self.json()? {
            Some(words) => CommandLine::Exec(words),
            None => CommandLine::Shell(self.arguments.to_owned()),
        })
    }

    fn arguments(&self) -> Result<Vec<Argument>, Problem> {
        let words = words::split_quoted(self.arguments, self.escape);
        if words.is_empty() {
            return Err(Problem::AtLeastOne(self.name));
        }
        let argument = |word: String| match word.split_once('=') {
            Some(("", _)) => Err(Problem::BlankName(self.name)),
            Some((name, default)) => Ok(Argument { name: name.to_owned(), default: Some(default.to_owned()) }),
            None => Ok(Argument { name: word, default: None }),
        };
        words.into_iter().map(argument).collect()
    }

    fn assignments(&self, legacy: &mut bool) -> Result<Vec<Assignment>, Problem> {
        let words = words::split_quoted(self.arguments, self.escape);
        let Some(first) = words.first() else { return Err(Problem::AtLeastOne(self.name)) };
        if !first.contains('=') {
            *legacy = true;
            let (name, value) = words::split_first(self.arguments).ok_or(Problem::TwoArguments(self.name))?;
            return Ok(vec![Assignment { name: name.to_owned(), value: value.to_owned() }]);
        }
        let assignment = |word: String| match word.split_once('=') {
            Some(("", _)) => Err(Problem::BlankName(self.name)),
            Some((name, value)) => Ok(Assignment { name: name.to_owned(), value: value.to_owned() }),
            None => Err(Problem::NoEquals { word }),
        };
        words.into_iter().map(assignment).collect()
    }

    fn ports(&self) -> Result<Vec<String>, Problem> {
        let mut ports = words::split_blanks(self.arguments);
        ports.sort();
        if ports.is_empty() { Err(Problem::AtLeastOne(self.name)) } else { Ok(ports) }
    }

    fn shell(&self) -> Result<Vec<String>, Problem> {
        match self.json()? {
            Some(words) if words.is_empty() => Err(Problem::AtLeastOne(self.name)),
            Some(words) => Ok(words),
            None if self.arguments.is_empty() => Err(Problem::AtLeastOne(self.name)),
            None => Err(Problem::ShellForm),
        }
    }

    fn volumes(&self) -> Result<Vec<String>, Problem> {
        let volumes: Vec<String> = self.list()?.iter().map(|volume| volume.trim().to_owned()).collect();
        match volumes.iter().any(String::is_empty) {
            true => Err(Problem::EmptyVolume),
            false if volumes.is_empty() => Err(Problem::AtLeastOne(self.name)),
            false => Ok(volumes),
        }
    }

    fn run(self) -> Result<Run, Failure> {
        const KNOWN: [(&str, Kind); 4] =
            [("mount", Kind::Values), ("network", Kind::Value), ("security", Kind::Value), ("device", Kind::Values)];
        let command = self.command()?;
        let flags = Flags::parse(self.name, self.flags, &KNOWN)?;
        let mounts = flags.values("mount");
        let mut mount_sources = Vec::new();
        for mount in &mounts {
            mount_sources.extend(mount::from_of(mount)?);
        }
        Ok(Run {
            command,
            heredocs: self.heredocs.to_vec(),
            mounts,
            mount_sources,
            network: network(flags.value("network"))?,
            security: security(flags.value("security"))?,
            devices: flags.values("device"),
        })
    }

    fn copy(self) -> Result<Instruction, Failure> {
        const KNOWN: [(&str, Kind); 6] = [
            ("from", Kind::Value),
            ("chown", Kind::Value),
            ("chmod", Kind::Value),
            ("link", Kind::Switch),
            ("parents", Kind::Switch),
            ("exclude", Kind::Values),
        ];
        let paths = self.paths()?;
        let flags = Flags::parse(self.name, self.flags.clone(), &KNOWN)?;
        let transfer = self.transfer(paths, &flags)?;
        let from = flags.value("from").filter(|from| !from.is_empty());
        Ok(Instruction::Copy(Copy { transfer, from, parents: flags.switch("parents") }))
    }

    fn add(self) -> Result<Instruction, Failure> {
        const KNOWN: [(&str, Kind); 7] = [
            ("chown", Kind::Value),
            ("chmod", Kind::Value),
            ("link", Kind::Switch),
            ("exclude", Kind::Values),
            ("checksum", Kind::Value),
            ("keep-git-dir", Kind::Switch),
            ("unpack", Kind::Switch),
        ];
        let paths = self.paths()?;
        let flags = Flags::parse(self.name, self.flags.clone(), &KNOWN)?;
        let transfer = self.transfer(paths, &flags)?;
        Ok(Instruction::Add(Add {
            transfer,
            checksum: flags.value("checksum"),
            keep_git_dir: flags.choice("keep-git-dir"),
            unpack: flags.choice("unpack"),
        }))
    }

    /// Sources, and the destination.
    fn paths(&self) -> Result<(Vec<String>, String), Problem> {
        let mut list = self.list()?;
        match (list.pop(), list.is_empty()) {
            (None, _) => Err(Problem::AtLeastOne(self.name)),
            (Some(_), true) => Err(Problem::NoDestination(self.name)),
            (Some(destination), false) => Ok((list, destination)),
        }
    }

    fn transfer(&self, (list, destination): (Vec<String>, String), flags: &Flags) -> Result<Transfer, Problem> {
        if !self.heredocs.is_empty() && heredoc::parse(&destination)?.is_some() {
            return Err(Problem::HeredocDestination(self.name));
        }
        let mut sources = Vec::new();
        let mut heredocs = Vec::new();
        for word in list {
            let announced = if self.heredocs.is_empty() { None } else { heredoc::parse(&word)? };
            match announced.and_then(|found| self.heredocs.iter().find(|heredoc| heredoc.name == found.name)) {
                Some(heredoc) => heredocs.push(heredoc.clone()),
                None => sources.push(word),
            }
        }
        Ok(Transfer {
            sources,
            heredocs,
            destination,
            chown: flags.value("chown").filter(|value| !value.is_empty()),
            chmod: flags.value("chmod").filter(|value| !value.is_empty()),
            link: flags.switch("link"),
            excludes: flags.values("exclude"),
        })
    }

    fn healthcheck(self) -> Result<Healthcheck, Failure> {
        const KNOWN: [(&str, Kind); 5] = [
            ("interval", Kind::Value),
            ("timeout", Kind::Value),
            ("start-period", Kind::Value),
            ("start-interval", Kind::Value),
            ("retries", Kind::Value),
        ];
        let (kind, rest) = words::split_name(self.arguments);
        let kind_upper = kind.to_uppercase();
        match kind_upper.as_str() {
            "" => return Err(Problem::AtLeastOne(self.name).into()),
            "NONE" if rest.is_empty() => return Ok(Healthcheck::None), // BuildKit looks at no flag of it
            "NONE" => return Err(Problem::HealthcheckNone.into()),
            _ => {}
        }
        let flags = Flags::parse(self.name, self.flags, &KNOWN)?;
        if kind_upper != "CMD" {
            return Err(Problem::HealthcheckType(kind.to_owned()).into());
        }
        let command = Input { name: self.name, flags: Vec::new(), arguments: rest, ..self }.command()?;
        if matches!(&command, CommandLine::Shell(text) if text.is_empty())
            || matches!(&command, CommandLine::Exec(words) if words.is_empty())
        {
            return Err(Problem::HealthcheckCommand.into());
        }
        let time = |flag: &'static str| duration::read(flag, flags.value(flag));
        Ok(Healthcheck::Probe(Probe {
            command,
            interval: time("interval")?,
            timeout: time("timeout")?,
            start_period: time("start-period")?,
            start_interval: time("start-interval")?,
            retries: retries(flags.value("retries"))?,
        }))
    }
}

fn network(value: Option<String>) -> Result<Network, Problem> {
    match value.as_deref() {
        None | Some("default") => Ok(Network::Default),
        Some("none") => Ok(Network::None),
        Some("host") => Ok(Network::Host),
        Some(other) => Err(Problem::FlagChoice {
            flag: "network",
            value: other.to_owned(),
            allowed: "there are default, none and host",
        }),
    }
}

fn security(value: Option<String>) -> Result<Security, Problem> {
    match value.as_deref() {
        None | Some("sandbox") => Ok(Security::Sandbox),
        Some("insecure") => Ok(Security::Insecure),
        Some(other) => Err(Problem::FlagChoice {
            flag: "security",
            value: other.to_owned(),
            allowed: "there are sandbox and insecure",
        }),
    }
}

/// The trigger's text with its heredocs' bodies. What it says is read where it is run, as BuildKit does: it may be
/// for a newer builder than this one.
fn onbuild(text: &str, heredocs: &[Heredoc], escape: char) -> Result<String, Failure> {
    let (_, trigger) = words::split_name(text);
    let (flags, _) = words::split_flags(trigger, escape);
    Flags::parse("ONBUILD", flags, &[])?;
    let (name, _) = words::split_name(trigger);
    if name.is_empty() {
        return Err(Problem::AtLeastOne("ONBUILD").into());
    }
    check_trigger(name)?;
    // Blanks at its end are kept.
    let end = text.len() - text.trim_end().len();
    let mut whole = trigger.trim_end().to_owned() + &text[text.len() - end..];
    for heredoc in heredocs {
        whole.push_str(&format!("\n{}{}", heredoc.body, heredoc.name));
    }
    Ok(whole)
}

/// Finds what makes a line impossible to take apart, whatever its instruction means. BuildKit looks at all lines for
/// that before it looks at any more closely, and at triggers too, which are else only read where they are used.
pub(super) fn check_form(line: &str, escape: char) -> Result<(), Problem> {
    let (name, rest) = words::split_name(line);
    let (_, arguments) = words::split_flags(rest, escape);
    let arguments = arguments.trim();
    let Some(name) = NAMES.into_iter().find(|known| known.eq_ignore_ascii_case(name)) else { return Ok(()) };
    let list = match name {
        "ONBUILD" => return check_form(arguments, escape),
        "ENV" | "LABEL" => return check_assignments(name, arguments, escape),
        "ADD" | "CMD" | "COPY" | "ENTRYPOINT" | "RUN" | "SHELL" | "VOLUME" => arguments,
        "HEALTHCHECK" => words::split_name(arguments).1,
        _ => return Ok(()),
    };
    words::json_array(list).transpose().map(drop).map_err(|_| Problem::NotStrings(name))
}

fn check_assignments(name: &'static str, arguments: &str, escape: char) -> Result<(), Problem> {
    let words = words::split_quoted(arguments, escape);
    match words.first() {
        Some(first) if !first.contains('=') => {
            words::split_first(arguments).map(drop).ok_or(Problem::TwoArguments(name))
        }
        _ => match words.into_iter().find(|word| !word.contains('=')) {
            Some(word) => Err(Problem::NoEquals { word }),
            None => Ok(()),
        },
    }
}

fn check_trigger(name: &str) -> Result<(), Problem> {
    match name.to_ascii_uppercase().as_str() {
        "ONBUILD" => Err(Problem::OnbuildChain),
        "FROM" => Err(Problem::OnbuildTrigger("FROM")),
        "MAINTAINER" => Err(Problem::OnbuildTrigger("MAINTAINER")),
        _ => Ok(()),
    }
}

fn retries(value: Option<String>) -> Result<u32, Problem> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(0) };
    match value.parse::<i32>() {
        Ok(number) if number >= 0 => Ok(number.unsigned_abs()),
        _ => Err(Problem::Number { flag: "retries", value }),
    }
}
