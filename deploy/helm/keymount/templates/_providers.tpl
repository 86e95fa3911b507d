{{- /* The container that talks to secret stores. It needs no right at all. */ -}}
{{- define "keymount.providers" -}}
{{- $probe := dict "exec" (dict "command" (list "/keymount-provider" "probe" "--socket-dir=/provider/run" (printf "--providers=%s" (join "," .Values.providers.enabled)))) -}}
name: providers
image: {{ include "keymount.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command:
  - /keymount-provider
args:
  - --providers={{ join "," .Values.providers.enabled }}
  - --socket-dir=/provider/run
  - --allowed-uids=0
  {{- if has "file" .Values.providers.enabled }}
  - --file-root=/etc/keymount/secrets
  {{- if .Values.providers.file.requirePolicy }}
  - --file-require-policy
  {{- end }}
  {{- end }}
  {{- $mounted := list }}
  {{- range .Values.providers.extraVolumeMounts }}
  {{- $mounted = append $mounted .mountPath }}
  {{- end }}
  {{- with $mounted }}
  - --readable-paths={{ join "," . }}
  {{- end }}
  - --v={{ .Values.logVerbosity }}
  {{- with .Values.providers.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.providers.env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
# There is no port and no shell: the program asks its own sockets.
startupProbe:
  {{- toYaml $probe | nindent 2 }}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  {{- toYaml $probe | nindent 2 }}
  periodSeconds: 30
  timeoutSeconds: 10
readinessProbe:
  {{- toYaml $probe | nindent 2 }}
  periodSeconds: 15
  timeoutSeconds: 10
resources:
  {{- toYaml .Values.providers.resources | nindent 2 }}
volumeMounts:
  - name: sockets
    mountPath: /provider
  {{- if has "file" .Values.providers.enabled }}
  - name: store
    mountPath: /etc/keymount/secrets
    readOnly: true
  {{- end }}
  {{- with .Values.providers.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
