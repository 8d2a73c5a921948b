//! What encrypts a connection.

use interlock_recording::wire::Writer;

use crate::tls::{Certificate, Leg, Verify};

pub(super) fn tls(writer: &mut Writer<'_>, leg: &Leg) {
    writer.string(1, leg.version);
    writer.string(2, &leg.cipher);
    writer.string(3, leg.server_name.as_deref().unwrap_or_default());
    writer.string(4, leg.alpn.as_deref().unwrap_or_default());
    if let Some(certificate) = &leg.certificate {
        writer.message(5, |field| write_certificate(field, certificate));
    }
    if let Some(verified) = &leg.verified {
        writer.string(6, verified.how.word());
        if verified.how == Verify::Full {
            verified.names.iter().for_each(|name| writer.always_string(7, name));
        }
    }
    writer.bool(8, leg.resumed);
}

pub(super) fn write_certificate(writer: &mut Writer<'_>, certificate: &Certificate) {
    writer.string(1, &certificate.subject);
    writer.string(2, &certificate.issuer);
    writer.bytes(3, &certificate.sha256);
    writer.bytes(4, &certificate.key_sha256);
    writer.uint(5, certificate.not_after.cast_unsigned());
}
