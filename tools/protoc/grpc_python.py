"""A protoc plugin for Python's gRPC stubs; buf runs it (see buf.gen.yaml).

grpcio-tools has the generator only inside its own protoc, not as a plugin executable. This turns the
CodeGeneratorRequest on standard input into a run of that protoc, and what it wrote into the response.
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.compiler import plugin_pb2
from grpc_tools import protoc


def generate(request: plugin_pb2.CodeGeneratorRequest) -> plugin_pb2.CodeGeneratorResponse:
    """Returns one `*_pb2_grpc.py` for each requested file that has a service.

    protoc's own complaints go to standard error, which buf shows.
    """
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    services = {file.name for file in request.proto_file if file.service}
    wanted = [name for name in request.file_to_generate if name in services]
    if not wanted:
        return response
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch, "image.binpb")
        image.write_bytes(descriptor_pb2.FileDescriptorSet(file=request.proto_file).SerializeToString())
        out = Path(scratch, "out")
        out.mkdir()
        status = protoc.main(["protoc", f"--descriptor_set_in={image}", f"--grpc_python_out={out}", *wanted])
        if status != 0:
            response.error = f"grpc_tools.protoc ended with status {status}"
            return response
        for path in sorted(out.rglob("*.py")):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text("utf-8"))
    return response


if __name__ == "__main__":
    sys.stdout.buffer.write(
        generate(plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())).SerializeToString()
    )
