"""tensorflow.serving.ModelService: how versions stand, and which models to serve."""

import asyncio
import concurrent.futures
import logging

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
)

from serving.model_server.config import from_proto
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.model_store import ModelStore
from serving.model_server.prediction_service import version_choice

_LOG = logging.getLogger(__name__)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Reports and reconfigures. allow_reload: whether clients may say which folders are served.

    A model is a program: whoever may point the server at a folder may run code in it. TF Serving has no such switch
    and leaves it to the network; here the answer is PERMISSION_DENIED unless it was allowed.
    """

    def __init__(self, store: ModelStore, executor: concurrent.futures.Executor, *, allow_reload: bool) -> None:
        self._store = store
        self._executor = executor
        self._allow_reload = allow_reload

    async def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.aio.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        name = request.model_spec.name
        version, label = version_choice(request.model_spec)
        if label is not None:
            version = self._store.version_of(name, label)
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in self._store.status(name, version):
            entry = response.model_version_status.add(version=status.version, state=int(status.state))
            # TF Serving sends the status also where all is well.
            entry.status.error_code = status.error.code.value[0] if status.error else 0
            entry.status.error_message = status.error.message if status.error else ""
        return response

    async def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.aio.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        if not self._allow_reload:
            raise ServingError(
                grpc.StatusCode.PERMISSION_DENIED,
                "This server's models can't be changed by a request: it was started without --allow-reload.",
            )
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        configs = from_proto(request.config.model_config_list)
        _LOG.info("A client asks for the models %s.", {config.name: str(config.base_path) for config in configs})
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._store.reload, configs, context.time_remaining())
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = 0
        return response
