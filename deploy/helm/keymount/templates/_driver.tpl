{{- /* The container that mounts. */ -}}
{{- define "keymount.driver" -}}
name: driver
image: {{ include "keymount.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command:
  - /keymount-driver
args:
  - --endpoint=unix:///csi/csi.sock
  - --nodeid=$(NODE_NAME)
  - --kubelet-root={{ .Values.kubeletRoot }}
  - --registration-dir=/registration
  - --kubelet-registration-path={{ include "keymount.pluginDir" . }}/csi.sock
  - --provider-volume=/provider/run
  - --additional-provider-volume-paths={{ join "," .Values.thirdPartyProviders.folders }}
  {{- with .Values.providers.enabled }}
  - --provider-users={{ join "=65532," . }}=65532
  {{- end }}
  {{- with (kindIs "invalid" .Values.driver.requireProviders | ternary .Values.providers.enabled .Values.driver.requireProviders) }}
  - --require-providers={{ join "," . }}
  {{- end }}
  - --state-dir=/run/keymount
  - --metrics-addr=:{{ .Values.driver.metricsPort }}
  {{- if .Values.metricsTLS.secretName }}
  - --metrics-tls=/metrics-tls
  {{- end }}
  - --enable-secret-rotation={{ .Values.rotation.enabled }}
  - --rotation-poll-interval={{ .Values.rotation.interval }}
  {{- if .Values.syncSecrets.enabled }}
  - --sync-secrets
  {{- end }}
  {{- if .Values.mintTokens.enabled }}
  - --mint-tokens
  {{- end }}
  {{- with .Values.audit.folder }}
  - --audit-log={{ . }}/audit.jsonl
  - --audit-required={{ $.Values.audit.required }}
  {{- end }}
  {{- if .Values.startupTaint.remove }}
  - --remove-startup-taint
  {{- end }}
  - --v={{ .Values.logVerbosity }}
  {{- with .Values.driver.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  - name: NODE_NAME
    valueFrom:
      fieldRef:
        fieldPath: spec.nodeName
  {{- with .Values.driver.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
securityContext:
  # Mounts must reach the node (Bidirectional), which kubelet allows to
  # privileged containers only. It brings all capabilities and no seccomp
  # profile, whatever else is written here: the driver gives up most of the
  # former at its start, and loads a profile of its own.
  privileged: true
  readOnlyRootFilesystem: true
  runAsUser: 0
  runAsGroup: 0
ports:
  - name: metrics
    containerPort: {{ .Values.driver.metricsPort }}
    protocol: TCP
startupProbe:
  httpGet:
    path: /healthz
    port: metrics
    {{- with .Values.metricsTLS.secretName }}
    scheme: HTTPS
    {{- end }}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /healthz
    port: metrics
    {{- with .Values.metricsTLS.secretName }}
    scheme: HTTPS
    {{- end }}
  periodSeconds: 15
  timeoutSeconds: 5
readinessProbe:
  httpGet:
    path: /readyz
    port: metrics
    {{- with .Values.metricsTLS.secretName }}
    scheme: HTTPS
    {{- end }}
  periodSeconds: 5
  timeoutSeconds: 5
resources:
  {{- toYaml .Values.driver.resources | nindent 2 }}
volumeMounts:
  - name: plugin
    mountPath: /csi
  - name: registration
    mountPath: /registration
  # Here the path is the node's: kubelet says where to mount by its own paths.
  - name: pods
    mountPath: {{ .Values.kubeletRoot }}/pods
    mountPropagation: Bidirectional
  {{- with .Values.audit.folder }}
  - name: audit
    mountPath: {{ . }}
  {{- end }}
  - name: state
    mountPath: /run/keymount
  {{- if .Values.metricsTLS.secretName }}
  - name: metrics-tls
    mountPath: /metrics-tls
    readOnly: true
  {{- end }}
  - name: api
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
  - name: sockets
    mountPath: /provider
    readOnly: true
  {{- range $i, $folder := .Values.thirdPartyProviders.folders }}
  - name: third-party-{{ $i }}
    mountPath: {{ $folder }}
    readOnly: true
  {{- end }}
{{- end -}}
