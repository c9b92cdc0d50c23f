#!/usr/bin/env python3
"""A client of the smidr daemon that knows nothing of smidr: grpcio, with the API learned by reflection.

    daemon-client.py ADDRESS CA.PEM (--token FILE | --certificate FILE --key FILE) COMMAND [ARGUMENT...]

    stream ID            prints the lines of a build's log until it ends
    cancel ID            cancels it, and prints its state
    start CONFIG         submits the text of a config, and prints the id or the refusal
    download ID PATH TO  downloads an artifact in two halves, and checks its digest
    list                 prints the ids
    methods              prints the API's methods, as reflection tells them
"""

import argparse
import hashlib
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "smidr.v1.Smidr"


class Token(grpc.AuthMetadataPlugin):
    def __init__(self, text):
        self.text = text

    def __call__(self, context, callback):
        callback((("authorization", f"Bearer {self.text}"),), None)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def connect(args):
    key, certificate = (read(args.key), read(args.certificate)) if args.certificate else (None, None)
    credentials = grpc.ssl_channel_credentials(read(args.ca), key, certificate)
    if args.token:
        token = grpc.metadata_call_credentials(Token(read(args.token).decode().strip()))
        credentials = grpc.composite_channel_credentials(credentials, token)
    return grpc.secure_channel(args.address, credentials)


class Api:
    def __init__(self, channel):
        self.channel = channel
        self.service = DescriptorPool(ProtoReflectionDescriptorDatabase(channel)).FindServiceByName(SERVICE)

    def __call__(self, name, **fields):
        method = self.service.methods_by_name[name]
        request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        call = kind(f"/{SERVICE}/{name}", request_serializer=request.SerializeToString, response_deserializer=answer.FromString)
        return call(request(**fields), timeout=120)


def download(api, build, path, to):
    listed = api("ListArtifacts", build_id=build).artifacts
    artifact = next(one for one in listed if one.path.text == path)
    half = artifact.size // 2
    whole = b"".join(chunk.data for chunk in api("DownloadArtifact", build_id=build, path={"text": path}))
    rest = b"".join(chunk.data for chunk in api("DownloadArtifact", build_id=build, path={"text": path}, offset=half))
    assert whole[half:] == rest, "the second half differs"
    assert hashlib.sha256(whole).hexdigest() == artifact.sha256.removeprefix("sha256:"), "another digest"
    with open(to, "wb") as file:
        file.write(whole)
    print(f"{len(whole)} bytes")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("ca")
    parser.add_argument("--token")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("command")
    parser.add_argument("argument", nargs="*")
    args = parser.parse_args()
    api = Api(connect(args))
    match args.command, args.argument:
        case "stream", [build]:
            for lines in api("StreamLogs", build_id=build, follow=True):
                for line in lines.lines:
                    print(line.text, flush=True)
        case "cancel", [build]:
            api("CancelBuild", build_id=build)
            for _ in api("WatchBuild", build_id=build, follow=True):
                pass
            state = api("GetBuildStatus", build_id=build).state
            print(api.service.file.enum_types_by_name["State"].values_by_number[state].name)
        case "start", [config]:
            print(api("StartBuild", config=read(config).decode(), config_name="smidr.yaml").build_id)
        case "download", [build, path, to]:
            download(api, build, path, to)
        case "list", []:
            for build in api("ListBuilds").builds:
                print(build.id)
        case "methods", []:
            print("\n".join(sorted(api.service.methods_by_name)))
        case _:
            parser.error(f"no such command: {args.command}")


try:
    main()
except grpc.RpcError as error:
    print(f"{error.code().name}: {error.details()}", file=sys.stderr)
    sys.exit(1)
