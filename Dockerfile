# circa_train on a CPU:
#   docker build -t circa_train .
#   docker run --rm -v "$PWD/runs:/app/runs" circa_train make quickstart
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
RUN make install
CMD ["make", "help"]
