"""A Kafka cluster: librdkafka's own mock brokers on TCP, with TLS and SASL before them when asked for.

    kafka.py BROKERS TOPIC PARTITIONS [CERTIFICATE KEY MECHANISM USER PASSWORD]

Commands on standard input, each answered by one line of JSON on standard output:
    create                  creates the topic
    down ID, up ID          a broker goes and comes back, with what it keeps
    leader PARTITION ID     moves a partition's leader
    errors KEY CODE...      the next requests of this key are answered so
    consume                 all records, read by a librdkafka consumer: [partition, offset, key, value, headers]
    refused                 how many sign-ins were refused
"""

import ctypes
import glob
import json
import os
import socket
import ssl
import struct
import sys
import threading

import confluent_kafka
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from scramp import ScramException, ScramMechanism

brokers, topic, partitions = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
front = sys.argv[4:]

folder = os.path.dirname(os.path.dirname(confluent_kafka.__file__))
lib = ctypes.CDLL(glob.glob(folder + "/confluent_kafka.libs/librdkafka*.so*")[0])
for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
    getattr(lib, name).restype = ctypes.c_void_p
lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p

said = ctypes.create_string_buffer(512)
handle = lib.rd_kafka_new(0, ctypes.c_void_p(lib.rd_kafka_conf_new()), said, 512)
cluster = ctypes.c_void_p(lib.rd_kafka_mock_cluster_new(ctypes.c_void_p(handle), brokers))
places = lib.rd_kafka_mock_cluster_bootstraps(cluster).decode().split(",")
refused = 0


def receive(stream, length):
    data = b""
    while len(data) < length:
        part = stream.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def frame(stream):
    return receive(stream, struct.unpack(">i", receive(stream, 4))[0])


def send(stream, data):
    stream.sendall(struct.pack(">i", len(data)) + data)


class Refused(Exception):
    pass


class SignIn:
    """SASL as a broker does it."""

    def __init__(self, mechanism, user, password):
        self.mechanism, self.user, self.password = mechanism, user, password
        self.scram = None
        self.done = False
        if mechanism != "PLAIN":
            scram = ScramMechanism(mechanism)
            self.info = scram.make_auth_info(password, iteration_count=8192)
            self.scram = scram.make_server(self.info_of)

    def info_of(self, user):
        if user != self.user:
            raise KeyError(user)
        return self.info

    def step(self, message):
        if self.mechanism == "PLAIN":
            if message != f"\0{self.user}\0{self.password}".encode():
                raise Refused
            self.done = True
            return b""
        try:
            if self.scram.stage is None:
                if not message.startswith(b"n,"):  # as Kafka's own brokers
                    raise Refused
                self.scram.set_client_first(message.decode())
                return self.scram.get_server_first().encode()
            self.scram.set_client_final(message.decode())
            self.done = True
            return self.scram.get_server_final().encode()
        except (ScramException, KeyError):
            raise Refused


def serve(raw, context, place, mechanism, user, password):
    global refused
    try:
        stream = context.wrap_socket(raw, server_side=True)
        host, port = place.rsplit(":", 1)
        behind = socket.create_connection((host, int(port)))
        sign_in = SignIn(mechanism, user, password)
        while True:
            request = frame(stream)
            key, version, correlation = struct.unpack(">hhi", request[:8])
            client = max(0, struct.unpack(">h", request[8:10])[0])
            body = request[10 + client :]
            answer = struct.pack(">i", correlation)
            if key == 18 and version > 0:
                # UNSUPPORTED_VERSION: it is asked again in version 0, which is easy to add to.
                send(stream, answer + struct.pack(">hi", 35, 0))
            elif key == 18:
                send(behind, request)
                known = frame(behind)
                count = struct.unpack(">i", known[6:10])[0]
                more = struct.pack(">hhhhhh", 17, 0, 1, 36, 0, 0)
                send(stream, known[:6] + struct.pack(">i", count + 2) + known[10:] + more)
            elif key == 17:
                asked = body[2:].decode()
                name = mechanism.encode()
                known = struct.pack(">ih", 1, len(name)) + name
                send(stream, answer + struct.pack(">h", 0 if asked == mechanism else 33) + known)
            elif key == 36:
                try:
                    said = sign_in.step(body[4:])
                except Refused:
                    refused += 1
                    send(stream, answer + struct.pack(">hhi", 58, -1, 0))
                    return
                send(stream, answer + struct.pack(">hhi", 0, -1, len(said)) + said)
            elif not sign_in.done:
                return
            else:
                send(behind, request)
                send(stream, frame(behind))
    except (OSError, EOFError):
        pass
    finally:
        raw.close()


def listen(place, certificate, key, *rest):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            raw, _ = listener.accept()
            threading.Thread(target=serve, args=(raw, context, place, *rest), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


servers = places
if front:
    servers = []
    for number, place in enumerate(places):
        port = listen(place, *front)
        lib.rd_kafka_mock_broker_set_host_port(cluster, number + 1, b"localhost", port)
        servers.append(f"localhost:{port}")


def consume():
    config = {"bootstrap.servers": ",".join(servers), "group.id": "test", "enable.auto.commit": False}
    if front:
        config |= {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": front[0],
            "sasl.mechanism": front[2],
            "sasl.username": front[3],
            "sasl.password": front[4],
        }
    consumer = Consumer(config | {"enable.partition.eof": True, "log_level": 0})
    consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(partitions)])
    records, ended = [], set()
    while len(ended) < partitions:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            if message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF:
                ended.add(message.partition())
                continue
            raise KafkaException(message.error())
        headers = {name: value.decode() for name, value in message.headers() or []}
        records.append(
            [message.partition(), message.offset(), message.key().decode(), message.value().decode(), headers]
        )
    consumer.close()
    return records


def answer(words):
    match words:
        case ["create"]:
            return lib.rd_kafka_mock_topic_create(cluster, topic.encode(), partitions, min(brokers, 3))
        case ["down", broker]:
            return lib.rd_kafka_mock_broker_set_down(cluster, int(broker))
        case ["up", broker]:
            return lib.rd_kafka_mock_broker_set_up(cluster, int(broker))
        case ["leader", partition, broker]:
            return lib.rd_kafka_mock_partition_set_leader(cluster, topic.encode(), int(partition), int(broker))
        case ["errors", key, *codes]:
            codes = [int(code) for code in codes]
            array = (ctypes.c_int * len(codes))(*codes)
            lib.rd_kafka_mock_push_request_errors_array(cluster, ctypes.c_int16(int(key)), len(codes), array)
            return 0
        case ["refused"]:
            return refused
        case ["consume"]:
            return consume()


print(json.dumps(servers), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(line.split())), flush=True)
