//! A private certificate authority and the certificate that it signs for a registry. Values only, no files.

use std::net::IpAddr;

use super::renew;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// How long the authority is good, in years. To replace it, every client has to be told.
const AUTHORITY_YEARS: i16 = 10;
/// How long a server's certificate is good, in days: the most that clients of Apple take.
pub const SERVER_DAYS: i64 = 825;
/// By how much the clocks of clients may be behind when a certificate is new, in days.
const SKEW_DAYS: i64 = 1;

/// A key and its certificate, both in PEM.
pub struct Pair {
    pub key: String,
    pub certificate: String,
}

/// What a registry needs to speak TLS, and what its clients need to believe it.
pub struct Certificates {
    pub authority: Pair,
    pub server: Pair,
}

/// Makes both. The first host gives the authority its name.
pub fn certificates(hosts: &[String], today: jiff::civil::Date) -> Result<Certificates, rcgen::Error> {
    let authority_key = KeyPair::generate()?;
    let authority = authority(&hosts[0], today);
    let certificate = authority.self_signed(&authority_key)?.pem();
    let pair = Pair { key: authority_key.serialize_pem(), certificate };
    let server_key = KeyPair::generate()?;
    let certificate = server(hosts, today)?.signed_by(&server_key, &Issuer::new(authority, authority_key))?.pem();
    Ok(Certificates { authority: pair, server: Pair { key: server_key.serialize_pem(), certificate } })
}

/// Why an authority signs nothing.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The files hold something else.
    #[error("ca.crt is no certificate of an authority that `lighter registry init` made")]
    Foreign,
    /// They do not belong together.
    #[error("ca.key is not the key of ca.crt")]
    Key,
    /// The certificate cannot be made.
    #[error(transparent)]
    Signing(#[from] rcgen::Error),
}

/// A new key for these hosts, and a certificate from an authority that was made before.
pub fn renewed(authority: &Pair, hosts: &[String], today: jiff::civil::Date) -> Result<Pair, Unfit> {
    let certificate = renew::der(&authority.certificate).ok_or(Unfit::Foreign)?;
    let common = renew::common_name(&certificate).ok_or(Unfit::Foreign)?;
    let authority_key = KeyPair::from_pem(&authority.key)?;
    let public = authority_key.public_key_raw();
    if !certificate.windows(public.len()).any(|window| window == public) {
        return Err(Unfit::Key);
    }
    let issuer = Issuer::new(named(&common, today), authority_key);
    let server_key = KeyPair::generate()?;
    let certificate = server(hosts, today)?.signed_by(&server_key, &issuer)?.pem();
    Ok(Pair { key: server_key.serialize_pem(), certificate })
}

fn authority(host: &str, today: jiff::civil::Date) -> CertificateParams {
    named(&format!("Lighter registry authority of {host}"), today)
}

fn named(common: &str, today: jiff::civil::Date) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = name(common);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)); // it signs servers, and no further authorities
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let last = jiff::civil::date(today.year() + AUTHORITY_YEARS, today.month(), 1);
    set_validity(&mut parameters, days_after(today, -SKEW_DAYS), last);
    parameters
}

fn server(hosts: &[String], today: jiff::civil::Date) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = name(&hosts[0]);
    for host in hosts {
        parameters.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.as_str().try_into()?),
        });
    }
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    set_validity(&mut parameters, days_after(today, -SKEW_DAYS), days_after(today, SERVER_DAYS - SKEW_DAYS - 1));
    Ok(parameters)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn days_after(day: jiff::civil::Date, days: i64) -> jiff::civil::Date {
    day.saturating_add(jiff::Span::new().days(days))
}

/// Both ends of a validity. rcgen has its times from another crate, which is no dependency of ours.
fn set_validity(parameters: &mut CertificateParams, first: jiff::civil::Date, last: jiff::civil::Date) {
    let part = |number: i8| u8::try_from(number).expect("months and days are positive");
    let midnight = |day: jiff::civil::Date| date_time_ymd(i32::from(day.year()), part(day.month()), part(day.day()));
    parameters.not_before = midnight(first);
    parameters.not_after = midnight(last);
}
